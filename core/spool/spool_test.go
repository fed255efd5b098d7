package spool

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// sink records each write. A write waits until the channel gate, if not nil, is closed. If failed is set, a write
// stores half of the bytes and returns an error.
type sink struct {
	mu     sync.Mutex
	writes []string
	failed bool
	gate   chan struct{} // nil: it does not block
}

func (s *sink) Write(p []byte) (int, error) {
	if s.gate != nil {
		<-s.gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed {
		s.writes = append(s.writes, string(p[:len(p)/2]))
		return len(p) / 2, errors.New("no space left")
	}
	s.writes = append(s.writes, string(p))
	return len(p), nil
}

func (s *sink) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.writes)
}

func (s *sink) all() string { return strings.Join(s.list(), "") }

func (s *sink) fail(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = yes
}

// buffered returns the number of pending bytes and the capacity of the buffers.
func (w *Writer) buffered() (waiting, capacity int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.pending), cap(w.pending) + cap(w.spare)
}

func TestFlushInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		w := New(s, nil)
		defer w.Close()
		begun := time.Now()
		io.WriteString(w, "a\n")
		synctest.Wait()
		require.Equal(t, []string{"a\n"}, s.list())
		io.WriteString(w, "b\n")
		io.WriteString(w, "c\n")
		synctest.Wait()
		require.Len(t, s.list(), 1)
		require.Zero(t, time.Since(begun))
		time.Sleep(flushInterval)
		synctest.Wait()
		require.Equal(t, []string{"a\n", "b\nc\n"}, s.list())
		time.Sleep(time.Minute)
		require.Len(t, s.list(), 2, "there is no write without a record")
	})
}

func TestCloseLosesNothing(t *testing.T) {
	s := &sink{}
	w := New(s, func(n int, _ error) { t.Errorf("%d lost", n) })
	var want strings.Builder
	for i := range 1_000 {
		line := fmt.Sprintln(i)
		want.WriteString(line)
		io.WriteString(w, line)
	}
	require.NoError(t, w.Close())
	require.NoError(t, w.Close(), "a second Close has no effect")
	require.Equal(t, want.String(), s.all())
	io.WriteString(w, "late\n")
	require.Equal(t, want.String()+"late\n", s.all())
}

// A blocked sink delays no Write, and memory is bounded. When the sink works again, it gets complete
// records in order and the number of lost ones.
func TestBlockedSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{gate: make(chan struct{})}
		var lost atomic.Int64
		var w *Writer
		w = New(s, func(n int, _ error) { lost.Add(int64(n)); fmt.Fprintf(w, "lost %d\n", n) })
		begun := time.Now()
		io.WriteString(w, "first\n")
		synctest.Wait() // the sink has it and blocks
		record := strings.Repeat("x", 1<<20-1) + "\n"
		for range 7 {
			io.WriteString(w, record)
		}
		require.Zero(t, time.Since(begun))
		waiting, _ := w.buffered()
		require.Equal(t, maxPending, waiting)
		close(s.gate)
		time.Sleep(10 * flushInterval)
		synctest.Wait()
		require.EqualValues(t, 3, lost.Load())
		require.Equal(t, "first\n"+strings.Repeat(record, 4)+"lost 3\n", s.all())
		_, capacity := w.buffered()
		require.LessOrEqual(t, capacity, 2*maxKeptBuffer, "large buffers are released")
		w.Close()
	})
}

func TestFailingSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{failed: true}
		var lost atomic.Int64
		w := New(s, func(n int, _ error) { lost.Add(int64(n)) })
		defer w.Close()
		io.WriteString(w, "first\n")
		time.Sleep(10 * flushInterval)
		synctest.Wait()
		io.WriteString(w, "second\n")
		time.Sleep(10 * flushInterval)
		synctest.Wait()
		require.Zero(t, lost.Load(), "the loss is not yet reported")
		s.fail(false)
		io.WriteString(w, "third\n")
		time.Sleep(10 * flushInterval)
		synctest.Wait()
		require.EqualValues(t, 2, lost.Load())
		require.Equal(t, "fir\nthird\n", s.all(), "the first half of the first record is a line of its own")
	})
}

func TestCloseTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{gate: make(chan struct{})}
		w := New(s, nil)
		io.WriteString(w, "never\n")
		begun := time.Now()
		w.Close()
		require.Equal(t, closeTimeout, time.Since(begun))
		close(s.gate) // so that the test can end
	})
}

func TestConcurrentWrites(t *testing.T) {
	s := &sink{}
	w := New(s, nil)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 500 {
				fmt.Fprintf(w, "%d %d\n", g, i)
			}
		})
	}
	wg.Wait()
	w.Close()
	lines := strings.Split(strings.TrimSuffix(s.all(), "\n"), "\n")
	require.Len(t, lines, 8*500)
	next := [8]int{}
	for _, line := range lines {
		var g, i int
		_, err := fmt.Sscan(line, &g, &i)
		require.NoError(t, err)
		require.Equal(t, next[g], i, "each writer's records keep their order")
		next[g]++
	}
}

func TestAllocWrite(t *testing.T) {
	w := New(io.Discard, nil)
	defer w.Close()
	record := []byte(strings.Repeat("x", 170) + "\n")
	for range 1_000 {
		w.Write(record) // both buffers grow
	}
	time.Sleep(2 * flushInterval)
	require.Less(t, testing.AllocsPerRun(100, func() { w.Write(record) }), 0.5)
}

func BenchmarkWrite(b *testing.B) {
	w := New(io.Discard, nil)
	defer w.Close()
	record := []byte(strings.Repeat("x", 170) + "\n")
	b.ReportAllocs()
	for b.Loop() {
		w.Write(record)
	}
}

// While the sink fails, NewReported's Writer reports the losses with their cause: the first one at once, and then one
// report in an interval.
func TestReportsWhileTheSinkFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &modalSink{}
		var reports []string
		w := NewReported(s, time.Minute, func(n int, err error) { reports = append(reports, fmt.Sprint(n, " ", err)) })
		write := func(count int) {
			for range count {
				fmt.Fprintln(w, "record")
				time.Sleep(time.Second)
			}
			synctest.Wait() // reports may be read
		}
		write(1)
		s.set("none")
		write(1)
		require.Equal(t, []string{"1 broken pipe"}, reports)
		write(100)
		require.Len(t, reports, 2, "one report in a minute")
		s.set("good")
		write(1)
		require.Len(t, reports, 3)
		total := 0
		for _, r := range reports {
			n := 0
			fmt.Sscanf(r, "%d broken pipe", &n)
			total += n
		}
		require.Equal(t, 101, total, "%q", reports)
		require.NoError(t, w.Close())
	})
}
