package memory

import (
	"context"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// process simulates a process. Its method free returns unused memory to the system.
type process struct {
	mu sync.Mutex // guards the following while run runs
	Usage
	used  uint64
	freed []time.Duration // times of the calls of free
}

// run calls Release, and calls do[s] after s seconds.
func run(t *testing.T, p *process, seconds int, do map[int]func()) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		read := func() Usage {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.Usage
		}
		go Release(ctx, read, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.Held = p.used
			p.freed = append(p.freed, time.Since(began))
		})
		for i := range seconds {
			synctest.Wait()
			if f := do[i]; f != nil {
				p.mu.Lock()
				f()
				p.mu.Unlock()
			}
			time.Sleep(time.Second)
		}
		cancel()
		synctest.Wait()
	})
}

// The memory of a burst is returned within ten seconds after the burst, even if memory was released during
// it.
func TestMemoryIsReturnedAfterABurst(t *testing.T) {
	for _, length := range []int{2, 60, 1000} {
		p := &process{Usage: Usage{Held: 30 << 20, Goroutines: 50}, used: 30 << 20}
		run(t, p, length+160, map[int]func(){
			100: func() { p.Held, p.used, p.Goroutines = 300<<20, 250<<20, 10_000 },
			100 + length: func() {
				p.used, p.Goroutines = 30<<20, 50
				p.Cycles++
			},
			100 + length + 10: func() { require.EqualValues(t, 30<<20, p.Held, "after a burst of %d s", length) },
		})
	}
}

// A second burst of the same size is returned as soon as the first one, however long after it.
func TestASecondBurstIsReturned(t *testing.T) {
	for _, gap := range []int{11, 20, 60, 300} {
		p := &process{Usage: Usage{Held: 30 << 20, Goroutines: 50}, used: 30 << 20}
		begin := func() {
			p.Held, p.used, p.Goroutines = 300<<20, 250<<20, 10_000
			p.Cycles++
		}
		collect := func() { p.Cycles++ }
		end := func() {
			p.used, p.Goroutines = 30<<20, 50
			p.Cycles++
		}
		returned := func() { require.EqualValues(t, 30<<20, p.Held, "%d s after the first burst", gap) }
		second := 102 + gap
		run(t, p, second+13, map[int]func(){
			100: begin, 101: collect, 102: end, second: begin, second + 1: collect, second + 2: end,
			second + 12: returned,
		})
	}
}

// Some memory of a burst is still in use when the rest is returned. Soon after its use has ended, this memory is
// returned, too.
func TestTheRestOfABurstIsReturned(t *testing.T) {
	p := &process{Usage: Usage{Held: 30 << 20, Goroutines: 50}, used: 30 << 20}
	run(t, p, 300, map[int]func(){
		100: func() { p.Held, p.used, p.Goroutines = 300<<20, 250<<20, 10_000 },
		130: func() { p.used, p.Goroutines = 45<<20, 50 },
		136: func() {
			require.EqualValues(t, 45<<20, p.Held)
			p.used = 30 << 20
		},
		144: func() { require.EqualValues(t, 30<<20, p.Held) },
	})
}

// If nothing changes in a process, it calls free less and less often. A busy process never calls
// free.
func TestAnUnchangedProcessCallsFreeLessOften(t *testing.T) {
	p := &process{Usage: Usage{Held: 30 << 20, Goroutines: 50}, used: 30 << 20}
	run(t, p, 3600, nil)
	require.InDelta(t, 3600/120, len(p.freed), 6)
	p = &process{Usage: Usage{Held: 30 << 20, Goroutines: 50}, used: 30 << 20}
	busy := map[int]func(){}
	for i := range 1200 {
		busy[3*i] = func() { p.Cycles++; p.Held = uint64(30+10*(i%9)) << 20 }
	}
	run(t, p, 3600, busy)
	require.Empty(t, p.freed)
}

// A steady load of many clients makes garbage more slowly than the runtime collects it by itself. A call of free would
// return this garbage, but would delay requests. Therefore free is called only a few times.
func TestASteadyLoadIsLeftAlone(t *testing.T) {
	for _, growth := range []struct {
		part     float64 // of the used memory, from a collection by the runtime to the next
		interval int     // between these collections, in seconds
	}{{0.5, 12}, {0.5, 30}, {1, 15}, {1, 20}, {1, 30}, {1, 60}, {1.1, 8}} {
		p := &process{Usage: Usage{Held: 30 << 20, Goroutines: 50}, used: 30 << 20}
		const end = 1300
		load := map[int]func(){100: func() { p.Held, p.used, p.Goroutines = 270<<20, 270<<20, 16_000 }}
		step := uint64(growth.part * (270 << 20) / float64(growth.interval))
		for i := 101; i < end; i++ {
			load[i] = func() {
				if p.Held += step; p.Held > p.used+step*uint64(growth.interval) {
					p.Held = p.used
					p.Cycles++
				}
			}
		}
		load[end] = func() { p.used, p.Goroutines = 30<<20, 50 }
		load[end+10] = func() { require.EqualValues(t, 30<<20, p.Held) }
		run(t, p, end+100, load)
		during := 0
		for _, at := range p.freed {
			if at > 100*time.Second && at < end*time.Second {
				during++
			}
		}
		require.LessOrEqual(t, during, 14, "%+v: %v", growth, p.freed)
	}
}

func TestReadAndFree(t *testing.T) {
	before := Read()
	require.Positive(t, before.Held)
	require.Positive(t, before.Goroutines)
	waste := make([]byte, 64<<20)
	for i := 0; i < len(waste); i += 4096 {
		waste[i] = 1
	}
	grown := Read().Held
	require.Greater(t, grown, before.Held+32<<20, "%d", waste[0])
	waste = nil
	Free()
	require.Less(t, Read().Held, grown-32<<20)
}

func TestCgroupLimit(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	for name, c := range map[string]struct {
		root fstest.MapFS
		want int64 // 0 for no limit
	}{
		"nothing":     {fstest.MapFS{}, 0},
		"no limit":    {fstest.MapFS{"sys/fs/cgroup/memory.max": file("max\n")}, 0},
		"a container": {fstest.MapFS{"sys/fs/cgroup/memory.max": file("1048576\n")}, 1 << 20},
		"a service": {fstest.MapFS{
			"proc/self/cgroup":                           file("1:name=x:/y\n0::/a.slice/b.service\n"),
			"sys/fs/cgroup/memory.max":                   file("max\n"),
			"sys/fs/cgroup/a.slice/memory.max":           file("2097152\n"),
			"sys/fs/cgroup/a.slice/b.service/memory.max": file("4194304\n"),
		}, 2 << 20},
		"version 1": {fstest.MapFS{"sys/fs/cgroup/memory/memory.limit_in_bytes": file("1048576\n")}, 1 << 20},
		"version 1, none": {fstest.MapFS{
			"sys/fs/cgroup/memory/memory.limit_in_bytes": file("9223372036854771712\n"),
		}, 0},
		"nonsense":         {fstest.MapFS{"sys/fs/cgroup/memory.max": file("-5\n")}, 0},
		"a path elsewhere": {fstest.MapFS{"proc/self/cgroup": file("0::/../x\n")}, 0},
	} {
		got, ok := CgroupLimit(c.root)
		require.Equal(t, c.want > 0, ok, name)
		if ok {
			require.Equal(t, c.want, got, name)
		}
	}
}

// GOMEMLIMIT takes precedence over the limit of the control group, even if it switches the runtime's limit off.
func TestRuntimeLimit(t *testing.T) {
	for _, c := range []struct {
		environment string
		cgroup      int64
		hasCgroup   bool
		limit       int64
		ok          bool
	}{
		{"", 1000 << 20, true, 900 << 20, true},
		{"", 1 << 62, false, 0, false},
		{"500MiB", 1000 << 20, true, 0, false},
		{"2GiB", 1000 << 20, true, 0, false},
		{"off", 1000 << 20, true, 0, false},
		{"500MiB", 0, false, 0, false},
	} {
		limit, ok := RuntimeLimit(c.environment, c.cgroup, c.hasCgroup)
		require.Equal(t, c.ok, ok, c)
		require.Equal(t, c.limit, limit, c)
	}
}
