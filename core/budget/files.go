// Package budget shares out what a process has a limited amount of: file descriptors ([Files]) and the memory of kept
// request bodies ([Memory]).
package budget

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Files shares out the file descriptors of a process. Every connection takes one, and every pipe two: those of clients,
// of the API, of attempts, idle connections to proxies, and checks. If none is left, Take makes room with the sources
// that SetSources has given, in their order. A nil *Files has no limit. Files is safe for concurrent use.
type Files struct {
	limit int64
	now   func() time.Time
	used  atomic.Int64
	other atomic.Int64 // of used: those that neither a client nor its attempt holds

	mu      sync.Mutex
	sources []func() bool // guarded by mu
	pause   time.Time     // until then no source is asked, because none had anything; guarded by mu
}

// Use is what a descriptor is for.
type Use uint8

// The uses of descriptors.
const (
	Serving Use = iota // connections of the gateway's clients, and connections for their requests
	Other              // everything else: checks, pipes, the API
)

// reserve is the number of descriptors that are not shared out: listeners, the poller, files that are read, the
// sockets of a name server, clients that are being refused.
const reserve = 32

// askAgain is the time for which Take asks no source after none of them had anything. Asking costs a look at each
// connection.
const askAgain = 10 * time.Millisecond

// NewFiles returns the descriptors of a process that may open limit files; nil if limit is 0, which means that the
// limit is unknown.
func NewFiles(limit int, now func() time.Time) *Files {
	if limit == 0 {
		return nil
	}
	return &Files{limit: int64(limit - min(reserve, limit/4)), now: now}
}

// SetSources sets the functions that Take calls, in this order, while no descriptor is left. A source closes at least
// one connection or pipe and returns true, or returns false if it has none to close.
func (f *Files) SetSources(sources ...func() bool) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sources = sources
}

// Limit returns the number of descriptors that are shared out; 0 for no limit.
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

// Take takes n descriptors, and makes room for them if necessary. It returns false, and takes none, if there is no
// room.
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

// TakeWait is Take, but waits for room for up to wait, until ctx ends.
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

// TakeSpare takes n descriptors if at least a quarter of all is free afterwards. It is for what can do without.
func (f *Files) TakeSpare(n int) bool { return f == nil || f.add(Other, int64(n), f.limit-f.limit/4) }

// Force takes n descriptors even if there is no room. It is for few connections, which the reserve covers.
func (f *Files) Force(n int) {
	if f != nil {
		f.add(Other, int64(n), 1<<62)
	}
}

// Give returns n descriptors, after they were closed.
func (f *Files) Give(use Use, n int) {
	if f == nil {
		return
	}
	if use == Other {
		f.other.Add(int64(-n))
	}
	f.used.Add(int64(-n))
}

// Fits reports whether clients and their requests may need n descriptors in all, beside those of other uses. A client
// that is admitted only if this is true never waits for the connection to a proxy, because everything else gives way to
// it. kept is the share of all descriptors that must stay free, from 0 to 1.
func (f *Files) Fits(n int64, kept float64) bool {
	return f == nil || n+f.other.Load() <= f.limit-int64(float64(f.limit)*kept)
}

// add takes n descriptors if at most limit are taken then.
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

// makeRoom asks the sources for room for n descriptors. It returns false if none had anything.
func (f *Files) makeRoom(n int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.used.Load()+n <= f.limit {
		return true // another call has made room
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
