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

// moody takes all of a write, half of it or none; when it is stuck, a write
// returns once it is something else.
type moody struct {
	mu      sync.Mutex
	mood    string
	got     bytes.Buffer
	writing bool
	freed   chan struct{} // closed when it is stuck no more
}

func (s *moody) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writing {
		panic("two writes at once")
	}
	s.writing = true
	defer func() { s.writing = false }()
	for s.mood == "stuck" {
		freed := s.freed
		s.mu.Unlock()
		<-freed
		s.mu.Lock()
	}
	switch s.mood {
	case "half":
		n, _ := s.got.Write(p[:len(p)/2])
		return n, errors.New("no space left")
	case "none":
		return 0, errors.New("broken pipe")
	}
	return s.got.Write(p)
}

func (s *moody) be(mood string) {
	s.mu.Lock()
	if s.mood == "stuck" {
		close(s.freed)
	}
	s.mood, s.freed = mood, make(chan struct{})
	s.mu.Unlock()
	synctest.Wait()
}

// lines are what the sink has, whole lines or not.
func (s *moody) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.SplitAfter(s.got.String(), "\n")
}

// ageless is a T of whose deadline rapid does not ask: in a bubble there is none.
type ageless struct{ *testing.T }

// Whatever the sink does, and whenever records are written and Close comes,
// they come out in order, each once and whole, or are counted: by lost, or by
// what Close returns.
func TestTheRuleOfRecords(t *testing.T) {
	filler := strings.Repeat("x", limit+1)
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(ageless{t}, func(t *rapid.T) {
			s := &moody{}
			var w *Writer
			written, told := 0, 0
			w = New(s, func(n int) {
				told += n
				written++
				fmt.Fprintf(w, "%d lost.\n", n)
			})
			defer func() { // so that it ends
				s.be("good")
				w.Close()
			}()
			next := 0
			closed := false
			shut := func() int {
				closed = true
				begun := time.Now()
				var missing Unwritten
				errors.As(w.Close(), &missing)
				require.LessOrEqual(t, time.Since(begun), patience)
				return int(missing)
			}
			t.Repeat(map[string]func(*rapid.T){
				"write": func(t *rapid.T) {
					size := rapid.SampledFrom([]int{0, 7, limit / 3, limit + 1}).Draw(t, "size")
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
				"mood": func(t *rapid.T) {
					moods := []string{"good", "half", "none", "stuck"}
					if closed { // whoever writes to one that gets stuck then has to wait
						moods = moods[:3]
					}
					s.be(rapid.SampledFrom(moods).Draw(t, "mood"))
				},
				"close": func(t *rapid.T) {
					if shut() == 0 && s.mood == "stuck" { // as above
						s.be("good")
					}
				},
			})
			ends := rapid.SampledFrom([]string{"good", s.mood}).Draw(t, "at the end")
			s.be(ends)
			before := closed
			missing := shut()
			arrived, last := 0, 0
			for _, line := range s.lines() {
				text, whole := strings.CutSuffix(strings.TrimSuffix(line, "\n"), ".")
				var n, size int
				if _, err := fmt.Sscanf(text, "record %d of %d ", &n, &size); err == nil && whole && strings.HasSuffix(text, " "+filler[:size]) {
					require.Greater(t, n, last, "in order, and once")
					last = n
					arrived++
				} else if _, err := fmt.Sscanf(text, "%d lost", &n); err == nil && whole {
					arrived++
				} else {
					require.False(t, whole, "%.40q", line)
				}
			}
			require.Equal(t, written, arrived+told+missing)
			if ends == "good" && !before {
				require.Zero(t, missing)
			}
		})
	})
}

// A Write after a Close that gave up waits for nobody, and what it writes comes
// after what was written before.
func TestLateWritesKeepTheirPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &moody{}
		w := New(s, nil)
		s.be("stuck")
		fmt.Fprintln(w, "first")
		synctest.Wait() // the sink has it, and is stuck with it
		fmt.Fprintln(w, "second")
		require.Equal(t, Unwritten(2), w.Close())
		begun := time.Now()
		fmt.Fprintln(w, "late")
		fmt.Fprintln(w, "later")
		require.Zero(t, time.Since(begun))
		s.be("good")
		fmt.Fprintln(w, "last")
		require.Equal(t, "first\nsecond\nlate\nlater\nlast\n", s.got.String())
		require.NoError(t, w.Close())
	})
}

// A record that no buffer can hold is told of at Close, if nothing came after.
func TestLossesAreToldAtClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &moody{}
		var w *Writer
		w = New(s, func(n int) { fmt.Fprintln(w, n, "lost") })
		w.Write(make([]byte, limit+1))
		require.NoError(t, w.Close())
		require.Equal(t, "1 lost\n", s.got.String())
	})
}
