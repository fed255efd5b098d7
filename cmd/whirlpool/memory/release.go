// Package memory keeps the process from holding more memory than it uses: it returns memory to the system after a
// burst, and reads the memory limit of the control group.
package memory

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Usage holds values of the runtime's counters.
type Usage struct {
	Held       uint64 // bytes that the runtime has from the system and has not returned
	Cycles     uint64 // garbage collections that the runtime has started itself
	Goroutines uint64
}

// The waits of Release.
const (
	tick         = time.Second
	shortestWait = 4 * time.Second
	longestWait  = 2 * time.Minute
)

// Until ctx ends, Release calls free each time the process has become idle after a burst. Without these
// calls, the memory of a burst would stay: the next garbage collection begins when the heap has doubled, or
// after two minutes (GOGC in package runtime).
//
// The process is idle if the runtime has started no garbage collection for the length of a wait. The wait is 4 s. It
// doubles, up to 2 minutes, after each call of free. It is 4 s again when half of the goroutines have ended, or when
// the memory has grown by a quarter and 8 MiB. As a result, an idle process calls free once in 2 minutes.
func Release(ctx context.Context, read func() Usage, free func()) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	r := releaser{read: read, free: free, after: read(), wait: shortestWait, since: time.Now()}
	for {
		select {
		case now := <-ticker.C:
			r.step(now)
		case <-ctx.Done():
			return
		}
	}
}

type releaser struct {
	read   func() Usage
	free   func()
	after  Usage  // usage after the last call of free
	cycles uint64 // Usage.Cycles at the last step
	wait   time.Duration
	since  time.Time // time of the last garbage collection or the last call of free
}

func (r *releaser) step(now time.Time) {
	u := r.read()
	if u.Cycles != r.cycles {
		r.cycles, r.since = u.Cycles, now
	}
	if u.Goroutines < r.after.Goroutines/2 || u.Held > r.after.Held*5/4+8<<20 {
		r.wait = shortestWait
	}
	if now.Sub(r.since) < r.wait {
		return
	}
	r.free()
	r.after, r.since = r.read(), now
	r.wait = min(2*r.wait, longestWait)
}

// Read returns the usage of this process.
func Read() Usage {
	s := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
		{Name: "/gc/cycles/automatic:gc-cycles"}, {Name: "/sched/goroutines:goroutines"},
	}
	metrics.Read(s)
	return Usage{
		Held: s[0].Value.Uint64() - s[1].Value.Uint64(), Cycles: s[2].Value.Uint64(), Goroutines: s[3].Value.Uint64(),
	}
}

// Free returns unused memory to the system. It collects garbage twice, because the first collection leaves the unused
// buffers of each sync.Pool.
func Free() {
	runtime.GC()
	debug.FreeOSMemory()
}
