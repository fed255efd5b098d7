// Package budget limits the use of two resources of the process: file descriptors ([Files]) and the memory for kept
// request bodies ([Memory]).
package budget

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Files limits the file descriptors that a process uses. Each connection takes one descriptor: connections of clients,
// of the API, of attempts and of checks, and idle connections to proxies. Each pipe takes two. If no descriptor is
// left, Acquire calls the functions of SetClosers. A nil *Files has no limit. Files is safe for concurrent use.
type Files struct {
	limit     int64
	refusals  int // see Refusals
	now       func() time.Time
	used      atomic.Int64
	otherUsed atomic.Int64 // the part of used that serves neither a client nor its attempt

	mu        sync.Mutex
	closers   []func() bool // guarded by mu
	nextClose time.Time     // no closer is called before this time; guarded by mu
}

// Purpose is the purpose of a descriptor.
type Purpose uint8

// The uses of descriptors.
const (
	ForClients Purpose = iota // connections of the gateway's clients, and connections for their requests
	ForOthers                 // everything else: checks, pipes, the API
)

// reserve is the number of descriptors that Files does not count: listeners, the poller, files that are read, and
// sockets to name servers. Clients that are being refused (Refusals) are not counted either.
const reserve = 24

// maxRefusals is the largest number of clients that are refused at a time.
const maxRefusals = 64

func refusals(limit int) int { return min(max(limit/16, 4), maxRefusals) }

// closeInterval is the minimum time between two calls of the closers if no closer had anything to close. A call is
// expensive, because it searches all connections.
const closeInterval = 10 * time.Millisecond

// NewFiles returns the budget of a process that may have at most limit files open; nil if limit is 0 (unknown).
func NewFiles(limit int, now func() time.Time) *Files {
	if limit == 0 {
		return nil
	}
	return &Files{limit: int64(limit - min(reserve+refusals(limit), limit/4)), refusals: refusals(limit), now: now}
}

// Refusals returns the number of clients that may be refused at the same time. Each needs a descriptor until it has its
// response.
func (f *Files) Refusals() int {
	if f == nil {
		return maxRefusals
	}
	return f.refusals
}

// SetClosers sets the functions that Acquire calls, in this order, while no descriptor is left. A closer closes at
// least one connection or pipe and returns true, or it has nothing to close and returns false.
func (f *Files) SetClosers(closers ...func() bool) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closers = closers
}

// Limit returns the maximum number of descriptors that may be taken at the same time; 0 for no limit.
func (f *Files) Limit() int {
	if f == nil {
		return 0
	}
	return int(f.limit)
}

// Used returns the number of descriptors that are taken now.
func (f *Files) Used() int {
	if f == nil {
		return 0
	}
	return int(f.used.Load())
}

// Acquire takes n descriptors, and makes room for them if necessary. It returns false if there is no room.
func (f *Files) Acquire(use Purpose, n int) bool {
	if f == nil {
		return true
	}
	for !f.takeBelow(use, int64(n), f.limit) {
		if !f.makeRoom(int64(n)) {
			return false
		}
	}
	return true
}

// AcquireWait is like Acquire, but waits for room. It returns false if the maximum wait is over, or if ctx ends.
func (f *Files) AcquireWait(ctx context.Context, use Purpose, n int, wait time.Duration) bool {
	if f.Acquire(use, n) {
		return true
	}
	end := time.NewTimer(wait)
	defer end.Stop()
	again := time.NewTicker(closeInterval)
	defer again.Stop()
	for {
		select {
		case <-again.C:
			if f.Acquire(use, n) {
				return true
			}
		case <-end.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// AcquireSpare takes n descriptors if at least a quarter of all descriptors stays free. It is for descriptors that the
// caller can do without.
func (f *Files) AcquireSpare(n int) bool {
	return f == nil || f.takeBelow(ForOthers, int64(n), f.limit-f.limit/4)
}

// AcquireAlways takes n descriptors even if the budget has no room. Only a few connections may use it; the reserve is
// large enough for them.
func (f *Files) AcquireAlways(n int) {
	if f != nil {
		f.takeBelow(ForOthers, int64(n), 1<<62)
	}
}

// Release returns n descriptors to the budget. The caller has closed them.
func (f *Files) Release(use Purpose, n int) {
	if f == nil {
		return
	}
	if use == ForOthers {
		f.otherUsed.Add(int64(-n))
	}
	f.used.Add(int64(-n))
}

// HasRoom reports whether the given share of all descriptors (0 to 1) stays free, if all clients and their requests
// together take n descriptors. The gateway admits a client only if HasRoom returns true. Then no request has to wait
// for the descriptor of its proxy connection, because the closers can make room for it.
func (f *Files) HasRoom(n int64, freeShare float64) bool {
	return f == nil || n+f.otherUsed.Load() <= f.limit-int64(float64(f.limit)*freeShare)
}

// takeBelow takes n descriptors, unless more than limit descriptors would then be taken.
func (f *Files) takeBelow(use Purpose, n, limit int64) bool {
	if f.used.Add(n) > limit {
		f.used.Add(-n)
		return false
	}
	if use == ForOthers {
		f.otherUsed.Add(n)
	}
	return true
}

// makeRoom calls the closers until one has closed something. It returns false if none has.
func (f *Files) makeRoom(n int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.used.Load()+n <= f.limit {
		return true // another call of makeRoom has made room
	}
	now := f.now()
	if now.Before(f.nextClose) {
		return false
	}
	for _, closeOne := range f.closers {
		if closeOne() {
			return true
		}
	}
	f.nextClose = now.Add(closeInterval)
	return false
}
