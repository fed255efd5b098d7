// Package coretest has helpers for the tests of several packages. The program does not use it.
package coretest

import (
	"bytes"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Serve listens until the test ends. It calls the function serve for each connection, and closes the connection when
// serve returns.
func Serve(t testing.TB, serve func(net.Conn)) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return l.Addr().String()
}

// Pair returns the two ends of a TCP connection, which is closed when the test ends.
func Pair(t testing.TB) (near, far *net.TCPConn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	b, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { a.Close(); b.Close() })
	return b.(*net.TCPConn), a.(*net.TCPConn)
}

// RunConcurrently starts n goroutines, which call f repeatedly. Each goroutine passes its own number, from 0 to n-1.
// The returned function ends the goroutines, and waits for their end.
func RunConcurrently(n int, f func(i int)) (stop func()) {
	var ended atomic.Bool
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for !ended.Load() {
				f(i)
			}
		})
	}
	return func() {
		ended.Store(true)
		wg.Wait()
	}
}

// Log is a log in memory. It is safe for concurrent use.
type Log struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String returns the text that has been written so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Reset empties the log.
func (l *Log) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

// Recorder keeps the events of attempts and requests. It is safe for concurrent use.
type Recorder struct {
	mu       sync.Mutex // guards the fields below
	attempts []core.AttemptEvent
	requests []core.RequestEvent
}

// CountAttempt keeps a finished attempt.
func (r *Recorder) CountAttempt(e *core.AttemptEvent, _ *core.Slot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempts = append(r.attempts, *e)
}

// Request keeps a finished request.
func (r *Recorder) Request(e *core.RequestEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, *e)
}

// Attempts returns the attempt events so far, in the order in which they were recorded.
func (r *Recorder) Attempts() []core.AttemptEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.attempts)
}

// Requests returns the request events so far, in the order in which they were recorded.
func (r *Recorder) Requests() []core.RequestEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// Rotation is a scorer that prefers each proxy in turn.
type Rotation struct{}

// Score implements core.Scorer.
func (Rotation) Score(c core.Candidates, scores []float64) error {
	rows := make([]core.Candidate, c.Len())
	var q core.RankRequest
	c.Fill(&q, rows)
	for i := range rows {
		scores[i] = -rows[i].Rotation
	}
	return nil
}
