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

// Usage has values from the metrics of the Go runtime (package runtime/metrics).
type Usage struct {
	Held       uint64 // bytes that the runtime has got from the system and has not returned
	Unused     uint64 // bytes of Held in which the runtime has no objects
	Cycles     uint64 // garbage collections that the runtime has started by itself, without a call of runtime.GC
	Goroutines uint64
}

// readInterval is the interval at which Release reads the usage. shortestWait and longestWait are the limits of the
// field releaser.wait.
const (
	readInterval = time.Second
	shortestWait = 4 * time.Second
	longestWait  = 2 * time.Minute
)

// Release calls the function free whenever the process is idle, until ctx ends. Without these calls, the process would
// hold the memory of a burst for minutes: the runtime starts its next garbage collection when the heap has doubled, or
// after two minutes (GOGC in package runtime).
//
// The process counts as idle if, for a certain time, the runtime has started no garbage collection and Release has not
// called free. This time (releaser.wait) is 4 s at first, and at most 2 minutes. Each call of free changes it
// (nextWait): it becomes longer if memory is not becoming unused, otherwise it becomes 4 s again. It also becomes 4 s
// again if more than half of the goroutines have ended since the last call of free, or if the memory of the process
// exceeds the memory before that call by more than a quarter plus 8 MiB.
func Release(ctx context.Context, read func() Usage, free func()) {
	ticker := time.NewTicker(readInterval)
	defer ticker.Stop()
	r := releaser{read: read, free: free, lastUsage: read(), wait: shortestWait, lastCollection: time.Now()}
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
	read           func() Usage
	free           func()
	lastUsage      Usage  // usage at the end of the last call of free
	heldBefore     uint64 // largest Usage.Held before the calls of free since wait was shortestWait, or a burst ended
	lastCycles     uint64 // Usage.Cycles at the last call of step
	wait           time.Duration
	lastCollection time.Time // time of the last garbage collection or the last call of free
}

func (r *releaser) step(now time.Time) {
	u := r.read()
	if u.Cycles != r.lastCycles {
		r.lastCycles, r.lastCollection = u.Cycles, now
	}
	if u.Goroutines < r.lastUsage.Goroutines/2 || u.Held > max(r.heldBefore, r.lastUsage.Held)*5/4+8<<20 {
		r.wait = shortestWait
	}
	if now.Sub(r.lastCollection) < r.wait {
		return
	}
	r.free()
	if r.wait == shortestWait {
		r.heldBefore = 0
	}
	before := r.lastUsage
	r.heldBefore, r.lastUsage, r.lastCollection = max(r.heldBefore, u.Held), r.read(), now
	if r.hasFallen(u.Held) {
		r.heldBefore = 0
	}
	r.wait = min(r.nextWait(before, u.Held), longestWait)
}

// hasFallen reports whether the last call of free has ended a burst: less than two fifths of the memory that was held
// before the call remain. Garbage alone seldom more than doubles the memory (GOGC in package runtime).
func (r *releaser) hasFallen(held uint64) bool { return r.lastUsage.Held < held/5*2 }

// nextWait returns the wait after a call of free. The parameters are the usage at the end of the call before, and
// Usage.Held at the beginning of this call.
func (r *releaser) nextWait(before Usage, held uint64) time.Duration {
	after := r.lastUsage
	remains := isAbout(after.Held, before.Held)
	switch {
	case r.hasFallen(held):
		return shortestWait
	case remains && isAbout(after.Goroutines, before.Goroutines) && r.wait > shortestWait:
		return 4 * r.wait // a steady load makes garbage; collections would delay its requests again and again
	case remains, after.Held > held/8*7:
		return 2 * r.wait
	}
	return shortestWait // a burst has just ended, so more memory may become unused soon
}

// isAbout reports whether a and b differ by less than an eighth of b.
func isAbout(a, b uint64) bool { return a > b/8*7 && a < b/8*9 }

// Read returns the usage of this process.
func Read() Usage {
	s := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
		{Name: "/gc/cycles/automatic:gc-cycles"}, {Name: "/sched/goroutines:goroutines"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(s)
	return Usage{
		Held: s[0].Value.Uint64() - s[1].Value.Uint64(), Cycles: s[2].Value.Uint64(), Goroutines: s[3].Value.Uint64(),
		Unused: s[4].Value.Uint64(),
	}
}

// Free returns unused memory to the system. It collects garbage twice (debug.FreeOSMemory also collects garbage),
// because the first collection does not free the unused buffers of a sync.Pool.
func Free() {
	runtime.GC()
	debug.FreeOSMemory()
}
