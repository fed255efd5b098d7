package evidence

import (
	"sync/atomic"
	"time"
)

// recentSuccesses is a table with the latest success of each target, even of targets without a recent failure. The
// hash of a target determines its index in the table. Targets with the same index overwrite each other. An entry is
// one word:
//
//	bit  63      several proxies have succeeded at the target within the same tick
//	bits 36-62   hash of the target
//	bits 20-35   hash of the proxy
//	bits  0-19   time in ticks of 250 ms
//
// A success stores a word at most twice per tick. Otherwise a success only loads a word.
type recentSuccesses [recentSize]atomic.Uint64

const (
	recentSize    = 1 << 10
	recentTick    = 250 * time.Millisecond
	recentSeveral = 1 << 63
	recentTarget  = 1<<27 - 1
	recentProxy   = 1<<16 - 1
	recentTime    = 1<<20 - 1 // ticks in three days, after which the time wraps around
)

func recentWord(target, proxy uint64, at time.Duration) uint64 {
	return (target>>10&recentTarget)<<36 | (proxy&recentProxy)<<20 | uint64(at/recentTick)&recentTime
}

func (s *recentSuccesses) add(target, proxy uint64, at time.Duration) {
	place := &s[target%recentSize]
	word := recentWord(target, proxy, at)
	switch old := place.Load(); {
	case !sameTarget(old, word) || old&recentTime != word&recentTime:
		place.Store(word)
	case old&recentSeveral == 0 && !sameProxy(old, word):
		place.Store(old | recentSeveral)
	}
}

// hasSuccessThroughOther reports whether another proxy has succeeded at the target within maxAge, exact to one tick. It
// does not find a success that was overwritten.
func (s *recentSuccesses) hasSuccessThroughOther(target, proxy uint64, now, maxAge time.Duration) bool {
	word, want := s[target%recentSize].Load(), recentWord(target, proxy, now)
	age := time.Duration((want-word)&recentTime) * recentTick
	return sameTarget(word, want) && (word&recentSeveral != 0 || !sameProxy(word, want)) && age <= maxAge
}

// hasAny reports whether the table holds a success within maxAge, exact to one tick.
func (s *recentSuccesses) hasAny(now, maxAge time.Duration) bool {
	want := recentWord(0, 0, now)
	for i := range s {
		word := s[i].Load()
		if age := time.Duration((want-word)&recentTime) * recentTick; word != 0 && age <= maxAge {
			return true
		}
	}
	return false
}

// hasAnyAfterTick reports whether the table holds a success that ended later than in the tick of began, and not later
// than in the tick of ended.
func (s *recentSuccesses) hasAnyAfterTick(began, ended time.Duration) bool {
	want := recentWord(0, 0, ended)
	ticks := uint64(ended/recentTick) - uint64(began/recentTick)
	for i := range s {
		if word := s[i].Load(); word != 0 && (want-word)&recentTime < ticks {
			return true
		}
	}
	return false
}

// hasTarget reports whether the table holds a success of the target, of any age.
func (s *recentSuccesses) hasTarget(target uint64) bool {
	return sameTarget(s[target%recentSize].Load(), recentWord(target, 0, 0))
}

func sameTarget(a, b uint64) bool { return (a^b)>>36&recentTarget == 0 }
func sameProxy(a, b uint64) bool  { return (a^b)>>20&recentProxy == 0 }
