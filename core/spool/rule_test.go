package spool

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// modalSink writes all bytes of a write, half of them or none, depending on its mode. In mode
// "blocked" a write waits for another mode.
type modalSink struct {
	mu      sync.Mutex
	mode    string
	got     bytes.Buffer
	writing bool
	freed   chan struct{} // closed at the end of mode "blocked"
}

func (s *modalSink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writing {
		panic("two writes at once")
	}
	s.writing = true
	defer func() { s.writing = false }()
	for s.mode == "blocked" {
		freed := s.freed
		s.mu.Unlock()
		<-freed
		s.mu.Lock()
	}
	switch s.mode {
	case "half":
		n, _ := s.got.Write(p[:len(p)/2])
		return n, errors.New("no space left")
	case "none":
		return 0, errors.New("broken pipe")
	}
	return s.got.Write(p)
}

func (s *modalSink) set(mode string) {
	s.mu.Lock()
	if s.mode == "blocked" {
		close(s.freed)
	}
	s.mode, s.freed = mode, make(chan struct{})
	s.mu.Unlock()
	synctest.Wait()
}

// lines returns the lines written so far. The last one may be incomplete.
func (s *modalSink) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.SplitAfter(s.got.String(), "\n")
}

// noDeadline is a T without a Deadline method, which does not work in a synctest bubble.
type noDeadline struct{ *testing.T }

// Whatever the sink does, and whenever Write and Close are called, the records are written in
// order, each once and completely, or they are counted: by onLost or by the error of Close.
func TestModel(t *testing.T) {
	filler := strings.Repeat("x", maxPending+1)
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(noDeadline{t}, func(t *rapid.T) {
			s := &modalSink{}
			var w *Writer
			written, reported := 0, 0
			w = New(s, func(n int, _ error) {
				reported += n
				written++
				fmt.Fprintf(w, "%d lost.\n", n)
			})
			defer func() { // so that the writer's goroutine ends
				s.set("good")
				w.Close()
			}()
			next := 0
			closed := false
			shut := func() int {
				closed = true
				begun := time.Now()
				var missing Unwritten
				errors.As(w.Close(), &missing)
				require.LessOrEqual(t, time.Since(begun), closeTimeout)
				return int(missing)
			}
			t.Repeat(map[string]func(*rapid.T){
				"write": func(t *rapid.T) {
					size := rapid.SampledFrom([]int{0, 7, maxPending / 3, maxPending + 1}).Draw(t, "size")
					next++
					written++
					begun := time.Now()
					fmt.Fprintf(w, "record %d of %d %s.\n", next, size, filler[:size])
					require.Zero(t, time.Since(begun))
					synctest.Wait()
				},
				"time": func(t *rapid.T) {
					time.Sleep(time.Duration(rapid.IntRange(1, 30).Draw(t, "ms")) * time.Millisecond)
					synctest.Wait()
				},
				"mode": func(t *rapid.T) {
					modes := []string{"good", "half", "none", "blocked"}
					if closed { // a Write after Close would block
						modes = modes[:3]
					}
					s.set(rapid.SampledFrom(modes).Draw(t, "mode"))
				},
				"close": func(t *rapid.T) {
					if shut() == 0 && s.mode == "blocked" { // as above
						s.set("good")
					}
				},
			})
			ends := rapid.SampledFrom([]string{"good", s.mode}).Draw(t, "at the end")
			s.set(ends)
			before := closed
			missing := shut()
			arrived, last := 0, 0
			for _, line := range s.lines() {
				text, whole := strings.CutSuffix(strings.TrimSuffix(line, "\n"), ".")
				var n, size int
				if _, err := fmt.Sscanf(text, "record %d of %d ", &n, &size); err == nil && whole &&
					strings.HasSuffix(text, " "+filler[:size]) {
					require.Greater(t, n, last, "in order, and once")
					last = n
					arrived++
				} else if _, err := fmt.Sscanf(text, "%d lost", &n); err == nil && whole {
					arrived++
				} else {
					require.False(t, whole, "%.40q", line)
				}
			}
			require.Equal(t, written, arrived+reported+missing)
			if ends == "good" && !before {
				require.Zero(t, missing)
			}
		})
	})
}

// A Write after a Close that timed out does not wait, and its record follows the earlier ones.
func TestWriteAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &modalSink{}
		w := New(s, nil)
		s.set("blocked")
		fmt.Fprintln(w, "first")
		synctest.Wait() // the sink has received the record and blocks
		fmt.Fprintln(w, "second")
		require.Equal(t, Unwritten(2), w.Close())
		begun := time.Now()
		fmt.Fprintln(w, "late")
		fmt.Fprintln(w, "later")
		require.Zero(t, time.Since(begun))
		s.set("good")
		fmt.Fprintln(w, "last")
		require.Equal(t, "first\nsecond\nlate\nlater\nlast\n", s.got.String())
		require.NoError(t, w.Close())
	})
}

// A record that is too large for the buffer is reported at Close, if no record follows.
func TestCloseReportsLosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &modalSink{}
		var w *Writer
		w = New(s, func(n int, _ error) { fmt.Fprintln(w, n, "lost") })
		w.Write(make([]byte, maxPending+1))
		require.NoError(t, w.Close())
		require.Equal(t, "1 lost\n", s.got.String())
	})
}
