package evidence

import (
	"sync/atomic"
	"time"
)

// fresh remembers by whom targets were served last, also those that have not failed
// lately. It is a table of words, each the latest of the targets that share its place: one
// bit for several proxies, 27 of the target's hash, 16 of the proxy's, and 20 of the time. A
// success writes at most twice in a quarter of a second, so that it mostly costs one load.
type fresh [freshSize]atomic.Uint64

const (
	freshSize   = 1 << 10
	freshTick   = 250 * time.Millisecond
	freshMany   = 1 << 63 // more than one proxy was served within the quarter of a second
	freshTarget = 1<<27 - 1
	freshProxy  = 1<<16 - 1
	freshTime   = 1<<20 - 1 // three days, then it begins anew
)

func freshWord(target, proxy uint64, at time.Duration) uint64 {
	return (target>>10&freshTarget)<<36 | (proxy&freshProxy)<<20 | uint64(at/freshTick)&freshTime
}

// serve notes that the proxy was served by the target.
func (f *fresh) serve(target, proxy uint64, at time.Duration) {
	place := &f[target%freshSize]
	word := freshWord(target, proxy, at)
	switch old := place.Load(); {
	case !sameTarget(old, word) || old&freshTime != word&freshTime:
		place.Store(word)
	case old&freshMany == 0 && !sameProxy(old, word):
		place.Store(old | freshMany)
	}
}

// served reports whether another proxy was served by the target within the last
// duration: as far as is remembered, and to a quarter of a second.
func (f *fresh) served(target, proxy uint64, at, within time.Duration) bool {
	word, want := f[target%freshSize].Load(), freshWord(target, proxy, at)
	age := time.Duration((want-word)&freshTime) * freshTick
	return sameTarget(word, want) && (word&freshMany != 0 || !sameProxy(word, want)) && age <= within
}

func sameTarget(a, b uint64) bool { return (a^b)>>36&freshTarget == 0 }
func sameProxy(a, b uint64) bool  { return (a^b)>>20&freshProxy == 0 }
