package gateway

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

const (
	halfChunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"
	lastChunk   = "3\r\ntwo\r\n0\r\n\r\n"
)

// longHalf is a response with a body that is copied inside the kernel. Its second half is missing.
func longHalf() string {
	return "HTTP/1.1 200 OK\r\nContent-Length: 262144\r\n\r\n" + strings.Repeat("x", 2*socket.SpliceMin)
}

// A client that leaves ends its request, also while the body of the response is silent. The proxy is not charged.
func TestAClientLeavesASilentBody(t *testing.T) {
	for name, half := range map[string]string{"short": halfChunked, "copied inside the kernel": longHalf()} {
		r := newRig(t, answering(func(*http.Request, string) string { return half }),
			func(o *options) { o.BodyIdle = 10 * patience })
		c := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
		c.head("GET", 200)
		c.Close()
		r.eventually("the request ends", func() bool { return len(r.recorded.Requests()) == 1 })
		require.Equal(t, verdict.ClientLeft, r.recorded.Attempts()[0].Outcome.Cause, name)
		r.free()
	}
}

// awaitedConn is a connection to a proxy. It sends a value to the channel long when a read deadline is set that is more
// than a minute away.
type awaitedConn struct {
	net.Conn
	long chan<- struct{}
}

func (c awaitedConn) SetReadDeadline(t time.Time) error {
	err := c.Conn.SetReadDeadline(t)
	if time.Until(t) > time.Minute {
		c.long <- struct{}{}
	}
	return err
}

// noSuspects are targets that are never suspect.
type noSuspects struct{}

func (noSuspects) IsSuspect(evidence.Target) bool                                    { return false }
func (noSuspects) AdmitRetries(evidence.Target, bool, time.Duration) bool            { return false }
func (noSuspects) RecordRetriesFailed(evidence.Target, time.Duration, time.Duration) {}
func (noSuspects) JustSucceededThroughOther(evidence.Target, uint64, time.Duration) bool {
	return false
}

// A client leaves a stalled body before timeouts.body_idle. If the body has a Content-Length and has been silent for at
// least ten seconds, the attempt has failed.
func TestAClientLeavesAStalledBody(t *testing.T) {
	const measured = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none"
	for name, c := range map[string]struct {
		half   string
		silent time.Duration
		want   core.Cause
	}{
		"stalled":           {measured, 10 * time.Second, verdict.AnswerBrokeOff},
		"silent for less":   {measured, 10*time.Second - 1, verdict.ClientLeft},
		"of unknown length": {halfChunked, time.Hour, verdict.ClientLeft},
	} {
		var silent atomic.Int64
		began, long := time.Now(), make(chan struct{}, 10)
		r := newRig(t, answering(func(*http.Request, string) string { return c.half }), func(o *options) {
			o.BodyIdle, o.targets = time.Hour, noSuspects{}
			o.now = func() time.Time { return began.Add(time.Duration(silent.Load())) }
			o.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				raw, err := (&net.Dialer{}).DialContext(ctx, network, address)
				return awaitedConn{raw, long}, err
			}
		})
		client := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
		client.head("GET", 200)
		<-long // the body has been silent for watchDelay
		silent.Store(int64(c.silent))
		client.Close()
		r.eventually("the request ends", func() bool { return len(r.recorded.Requests()) == 1 })
		require.Equal(t, c.want, r.recorded.Attempts()[0].Outcome.Cause, name)
		require.Equal(t, []string{"cancelled"}, r.recorded.finals(), name)
		r.free()
	}
}

// A client leaves while it still sends the body of its request and gets the beginning of the response. The silence of
// the proxy may be due to the client, so the proxy is not charged, however long the silence was.
func TestAClientLeavesDuringItsUpload(t *testing.T) {
	for name, c := range map[string]struct {
		half   string
		silent time.Duration
	}{
		"with a length":            {"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none", 0},
		"silent for a long time":   {"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none", time.Minute},
		"of unknown length":        {halfChunked, time.Minute},
		"copied inside the kernel": {longHalf(), time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			var silent atomic.Int64
			began := time.Now()
			r := newRig(t, func(conn net.Conn) {
				q, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				io.WriteString(conn, c.half)
				io.Copy(io.Discard, q.Body)
			}, func(o *options) {
				o.BodyIdle, o.targets = time.Hour, noSuspects{}
				o.now = func() time.Time { return began.Add(time.Duration(silent.Load())) }
			})
			client := r.ask("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000000\r\n\r\npiece")
			client.head("POST", 200)
			silent.Store(int64(c.silent))
			client.Close()
			r.eventually("the request ends", func() bool { return len(r.recorded.Requests()) == 1 })
			require.Equal(t, verdict.ClientLeft, r.recorded.Attempts()[0].Outcome.Cause)
			require.Equal(t, []string{"cancelled"}, r.recorded.finals())
			r.free()
		})
	}
}

// A client that has only closed its sending side gets a reset, because the regular end of the connection would end the
// body.
func TestAHalfClosedClientOfASilentBodyGetsAReset(t *testing.T) {
	r := newRig(t, answering(func(*http.Request, string) string { return halfChunked }),
		func(o *options) { o.BodyIdle = 10 * patience })
	c := r.ask("GET http://a.test/ HTTP/1.0\r\nHost: a.test\r\n\r\n")
	c.head("GET", 200)
	require.NoError(t, c.CloseWrite())
	_, err := io.ReadAll(c.r)
	require.ErrorIs(t, err, syscall.ECONNRESET)
	c.Close()
	r.free()
}

// A body may be silent for longer than watchDelay. The client then gets the rest, and the connection serves further
// requests.
func TestASilentBodyGoesOn(t *testing.T) {
	long := longHalf()
	for name, parts := range map[string][2]string{
		"short":                    {halfChunked, lastChunk},
		"copied inside the kernel": {long, strings.Repeat("x", 1<<18-2*socket.SpliceMin)},
	} {
		send := make(chan struct{})
		r := newRig(t, func(c net.Conn) {
			if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
				return
			}
			io.WriteString(c, parts[0])
			<-send
			io.WriteString(c, parts[1])
		}, func(o *options) { o.BodyIdle = 10 * patience })
		c := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
		a := c.head("GET", 200)
		time.Sleep(watchDelay + watchDelay/4) // on a busy machine the watch may begin later; the result is the same
		close(send)
		body, err := io.ReadAll(a.Body)
		require.NoError(t, err)
		require.Contains(t, []int{len("onetwo"), 1 << 18}, len(body), name)
		c.goesOn()
		require.Equal(t, []string{"success"}, r.recorded.finals())
		c.Close()
		r.free()
	}
}
