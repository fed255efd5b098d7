package logfold

import (
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// sink is a log in memory.
type sink struct{ coretest.Log }

var folded = regexp.MustCompile(`folded=(\d+)`)

// count returns the number of written records with a message, and the number of all records with it.
func (s *sink) count(message string) (written, all int) {
	for line := range strings.Lines(s.String()) {
		if !strings.Contains(line, "msg="+message+" ") {
			continue
		}
		if m := folded.FindStringSubmatch(line); m != nil {
			n, _ := strconv.Atoi(m[1])
			all += n
			continue
		}
		written++
		all++
	}
	return written, all
}

// noDeadline is a T without a Deadline method, which does not work in a synctest bubble.
type noDeadline struct{ *testing.T }

// The counts include every record. The number of written records of a kind is the number that the allowance permits.
func TestNothingIsLostFromTheCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(noDeadline{t}, func(t *rapid.T) {
			s := &sink{}
			h := New(slog.NewTextHandler(s, nil))
			logs := []*slog.Logger{slog.New(h), slog.New(h).With("a", 1), slog.New(h).WithGroup("g")}
			want, written, allowed := map[string]int{}, map[string]int{}, map[string]int{}
			kinds := []string{"a", "b", "c"}
			for _, k := range kinds {
				allowed[k] = Burst
			}
			begun := false // a period has begun
			for range rapid.IntRange(1, 20).Draw(t, "bursts") {
				k := rapid.SampledFrom(kinds).Draw(t, "kind")
				n := rapid.IntRange(1, Burst).Draw(t, "records")
				log := rapid.SampledFrom(logs).Draw(t, "log")
				for i := range n {
					log.Error(k, "i", i)
				}
				begun = true
				want[k] += n
				written[k] += min(n, allowed[k])
				allowed[k] -= min(n, allowed[k])
				if rapid.Bool().Draw(t, "a second passes") && begun {
					time.Sleep(period)
					synctest.Wait()
					for _, k := range kinds {
						allowed[k] = min(allowed[k]+Rate, Burst)
					}
				}
			}
			h.Flush()
			for k, n := range want {
				got, all := s.count(k)
				require.Equal(t, n, all, k)
				require.Equal(t, written[k], got, k)
			}
			time.Sleep((Burst/Rate + 2) * period) // until every allowance is full
			synctest.Wait()
			require.Empty(t, h.state.byKind)
		})
	})
}

// Kinds beyond maxKinds are written.
func TestManyKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		log := slog.New(New(slog.NewTextHandler(s, nil)))
		for i := range maxKinds + 10 {
			log.Info(fmt.Sprintf("m%d", i), "x", 1)
		}
		require.Equal(t, maxKinds+10, strings.Count(s.String(), "\n"))
		time.Sleep((Burst/Rate + 2) * period)
	})
}

func TestConcurrentRecords(t *testing.T) {
	s := &sink{}
	h := New(slog.NewTextHandler(s, nil))
	log := slog.New(h)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 1000 {
				log.Warn("m", "i", i)
			}
		})
	}
	wg.Wait()
	h.Flush()
	_, all := s.count("m")
	require.Equal(t, 8000, all)
}

// Of a message in a flood, the first record of each error is written, and then one a second with the number.
func TestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		log := slog.New(New(slog.NewTextHandler(s, nil), Rule{"full", []string{"error"}, 1}))
		flood := func(n int, err string) {
			for i := range n {
				log.Error("full", "i", i, "error", err)
			}
		}
		wait := func(seconds int) {
			time.Sleep(time.Duration(seconds)*period + period/2)
			synctest.Wait()
		}
		flood(500, "x")
		flood(3, "y")
		log.Error("other", "i", 1)
		written, all := s.count("full")
		require.Equal(t, []int{2, 2}, []int{written, all})
		wait(1)
		flood(7, "x")
		wait(1)
		written, all = s.count("full")
		require.Equal(t, []int{2, 510}, []int{written, all})
		require.Contains(t, s.String(), "error=x folded=499 within=1s")
		require.Contains(t, s.String(), "error=y folded=2 within=1s")
		wait(2)
		flood(1, "x")
		written, all = s.count("full")
		require.Equal(t, []int{3, 511}, []int{written, all}, "after a second without a record")
		wait(3)
		log.Error("other", "i", 2)
		written, _ = s.count("other")
		require.Equal(t, 2, written)
		time.Sleep((Burst/Rate + 2) * period)
		synctest.Wait()
	})
}

// A rule has its own number of first records. Kinds beyond maxKindsOfRule are counted together, and texts that the
// caller overwrites after the record do not change the kinds.
func TestRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		log := slog.New(New(slog.NewTextHandler(s, nil), Rule{"login", []string{"client", "user"}, 3}))
		buffer := []byte("x000")
		for i := range maxKindsOfRule + 10 {
			copy(buffer, fmt.Sprintf("u%03d", i))
			for range 5 {
				log.Warn("login", "port", 1, "user", unsafe.String(&buffer[0], len(buffer)), "client", "c")
			}
		}
		time.Sleep(period + period/2)
		synctest.Wait()
		written, all := s.count("login")
		require.Equal(t, []int{3 * maxKindsOfRule, 5 * (maxKindsOfRule + 10)}, []int{written, all})
		require.Contains(t, s.String(), "msg=login client=c user=u007 folded=2 within=1s")
		require.Contains(t, s.String(), "msg=login folded=50 within=1s")
		time.Sleep(3 * period)
		synctest.Wait()
		log.Warn("login", "user", "v", "client", "c")
		require.Contains(t, s.String(), "msg=login user=v client=c")
		time.Sleep(3 * period)
		synctest.Wait()
	})
}

// A record that is only counted costs no memory.
func TestAllocOfAFlood(t *testing.T) {
	h := New(slog.DiscardHandler, Rule{"failed", []string{"reason", "host"}, 1})
	r := slog.NewRecord(time.Time{}, slog.LevelError, "failed", 0)
	r.AddAttrs(slog.String("host", "a"), slog.String("reason", "b"))
	handle := func() { _ = h.Handle(t.Context(), r) }
	handle()
	require.Zero(t, testing.AllocsPerRun(100, handle))
}
