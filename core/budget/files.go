// Package budget limits the use of two resources of the process: file descriptors ([Files]) and the memory for kept
// request bodies ([Memory]).
package budget

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Files limits the file descriptors of a process. Each connection takes one descriptor and each pipe two. The counted
// connections are those of clients, of the API, of attempts and of checks, and idle connections to proxies. If no
// descriptor is left, Take calls the functions of SetSources in their order, to make room. A nil *Files has no limit.
// Files is safe for concurrent use.
type Files struct {
	limit    int64
	refusals int // see Refusals
	now      func() time.Time
	used     atomic.Int64
	other    atomic.Int64 // the part of used that serves neither a client nor its attempt

	mu      sync.Mutex
	sources []func() bool // guarded by mu
	pause   time.Time     // no source is called before this time; guarded by mu
}

// Use is the purpose of a descriptor.
type Use uint8

// The uses of descriptors.
const (
	Serving Use = iota // connections of the gateway's clients, and connections for their requests
	Other              // everything else: checks, pipes, the API
)

// reserve is the number of descriptors that Files does not count: of listeners, of the poller, of files that are read,
// and of sockets to name servers. Clients that are being refused (Refusals) are not counted either.
const reserve = 24

// maxRefusals is the largest number of clients that are refused at a time.
const maxRefusals = 64

func refusals(limit int) int { return min(max(limit/16, 4), maxRefusals) }

// askAgain is the time for which Take calls no source after all sources have had nothing to close. A call is
// expensive, because it searches all connections.
const askAgain = 10 * time.Millisecond

// NewFiles returns the budget of a process that may have at most limit files open. It returns nil if limit is
// 0, which means that the limit is unknown.
func NewFiles(limit int, now func() time.Time) *Files {
	if limit == 0 {
		return nil
	}
	return &Files{limit: int64(limit - min(reserve+refusals(limit), limit/4)), refusals: refusals(limit), now: now}
}

// Refusals returns the number of clients that may be refused at the same time. Each of them needs a descriptor until it
// has its response.
func (f *Files) Refusals() int {
	if f == nil {
		return maxRefusals
	}
	return f.refusals
}

// SetSources sets the functions that Take calls, in this order, while no descriptor is left. A source closes at least
// one connection or pipe and returns true. If a source has nothing to close, it returns false.
func (f *Files) SetSources(sources ...func() bool) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sources = sources
}

// Limit returns the maximum number of descriptors that may be taken at a time; 0 for no limit.
func (f *Files) Limit() int {
	if f == nil {
		return 0
	}
	return int(f.limit)
}

// Used returns the number of descriptors that are taken.
func (f *Files) Used() int {
	if f == nil {
		return 0
	}
	return int(f.used.Load())
}

// Take takes n descriptors, and makes room for them if necessary. If there is no room, it takes none and returns
// false.
func (f *Files) Take(use Use, n int) bool {
	if f == nil {
		return true
	}
	for !f.add(use, int64(n), f.limit) {
		if !f.makeRoom(int64(n)) {
			return false
		}
	}
	return true
}

// TakeWait is like Take, but waits if there is no room: at most for the given time, and at most until ctx ends.
func (f *Files) TakeWait(ctx context.Context, use Use, n int, wait time.Duration) bool {
	if f.Take(use, n) {
		return true
	}
	end := time.NewTimer(wait)
	defer end.Stop()
	again := time.NewTicker(askAgain)
	defer again.Stop()
	for {
		select {
		case <-again.C:
			if f.Take(use, n) {
				return true
			}
		case <-end.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// TakeSpare takes n descriptors if at least a quarter of all descriptors is free afterwards. It is meant for uses
// that the gateway can do without.
func (f *Files) TakeSpare(n int) bool { return f == nil || f.add(Other, int64(n), f.limit-f.limit/4) }

// Force takes n descriptors even if there is no room. It is meant for a few connections, for which the
// reserve has room.
func (f *Files) Force(n int) {
	if f != nil {
		f.add(Other, int64(n), 1<<62)
	}
}

// Give returns n descriptors to the budget, after they were closed.
func (f *Files) Give(use Use, n int) {
	if f == nil {
		return
	}
	if use == Other {
		f.other.Add(int64(-n))
	}
	f.used.Add(int64(-n))
}

// Fits reports whether n descriptors for all clients and their requests fit into the limit. If clients are admitted
// only when Fits returns true, no request waits for the descriptor of its connection to a proxy: the functions of
// SetSources close other connections or pipes for it. The parameter kept is the share of all descriptors that must stay
// free, from 0 to 1.
func (f *Files) Fits(n int64, kept float64) bool {
	return f == nil || n+f.other.Load() <= f.limit-int64(float64(f.limit)*kept)
}

// add takes n descriptors, unless more than limit would then be taken.
func (f *Files) add(use Use, n, limit int64) bool {
	if f.used.Add(n) > limit {
		f.used.Add(-n)
		return false
	}
	if use == Other {
		f.other.Add(n)
	}
	return true
}

// makeRoom calls the sources until there is room for n descriptors. It returns false if no source has anything to
// close.
func (f *Files) makeRoom(n int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.used.Load()+n <= f.limit {
		return true // another call of makeRoom has made room
	}
	now := f.now()
	if now.Before(f.pause) {
		return false
	}
	for _, source := range f.sources {
		if source() {
			return true
		}
	}
	f.pause = now.Add(askAgain)
	return false
}
