package evidence

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Book holds a proxy's failures. The zero value is ready. It is safe for
// concurrent use.
type Book struct {
	served atomic.Uint64        // successes of the proxy
	pairs  atomic.Pointer[pair] // at most maxPairs, the newest first

	mu        sync.Mutex
	gen       uint64
	excursion uint16 // number of the current one; pairs of another are of the past
	last      time.Duration
	latest    Attempt // the failure at last, without its book

	// Since the excursion began.
	since     time.Duration
	served0   uint64 // served at its beginning
	failures  uint32 // all
	own       uint32 // of the proxy's own kinds
	ownCauses causes
	evicted   float64 // evidence of pairs that had to go

	// The failures since the proxy's last success, which may prove to be noise.
	run, runOwn float64
	servedRun   uint64

	// How many failures of the excursion followed each other: each attempt began after
	// the one before had failed.
	chain    int
	chainEnd time.Duration

	outage  bool   // everything failed, as of the last failure
	row     spread // failures since the proxy's last success
	wave    spread // failures since the pool's last success
	waveNth uint64 // of the ledger's waves
}

// pair is a proxy's record at one target: 64 bytes.
type pair struct {
	target  *target
	next    atomic.Pointer[pair]
	served  atomic.Uint32 // successes of the proxy at the target
	failed  uint32        // failures
	pending atomic.Uint32 // failures since the last success

	// At the beginning of the excursion.
	served0, failed0         uint32
	restServed0, restFailed0 uint32

	// Failures of the excursion: those that count; those that wait for another
	// proxy's success whose attempt begins after sealedAt; those since then.
	counted  uint16
	sealed   uint8
	waiting  uint8
	sealedAt uint32 // µs
	// What the others had failed when sealed was set.
	restFailed uint16

	excursion uint16
	bans      uint8 // excursions in a row that other targets have ended
	causes    causes
}

// causes counts up to three different causes; further ones are left out.
type causes [3]struct{ cause, n uint8 }

func (c *causes) count(cause uint8) {
	for i := range c {
		if c[i].n == 0 || c[i].cause == cause {
			c[i].cause = cause
			if c[i].n < math.MaxUint8 {
				c[i].n++
			}
			return
		}
	}
}

// serve records a success: the failures before it were noise.
func (p *pair) serve() {
	p.served.Add(1)
	if p.pending.Load() > 0 {
		p.target.confirmed.Add(p.pending.Swap(0))
	}
}

// others are the counters of the rest of the pool at the target.
func (p *pair) others() (served, failed uint32) {
	return p.target.served() - p.served.Load(), p.target.failed.Load() - p.failed
}

// settle lets the failures that wait count, if another proxy's attempt has
// begun after them and was served, and drops them if the target has failed for
// the others again and again. last is when the proxy failed last. A success
// that began before says nothing: the target may have died meanwhile.
func (p *pair) settle(proxy uint64, last time.Duration) {
	if p.sealed == 0 {
		return
	}
	_, failed := p.others()
	switch {
	case p.target.servedAfter(proxy, p.sealedAt):
		p.counted += min(uint16(p.sealed), math.MaxUint16-p.counted)
		p.sealed = 0
		p.seal(last)
	case uint16(failed)-p.restFailed >= hopeless:
		p.sealed, p.waiting = 0, 0
	}
}

// seal lets the failures up to a moment wait for a success.
func (p *pair) seal(at time.Duration) {
	_, failed := p.others()
	p.sealed, p.waiting, p.sealedAt, p.restFailed = p.waiting, 0, micros(at), uint16(failed)
}

// hope is how many of the failures that do not count yet are taken to count one day.
// Where others have failed as well since, the target is likely dead: none.
func (p *pair) hope() int {
	if _, failed := p.others(); uint16(failed)-p.restFailed >= 2 {
		return 0
	}
	return 4
}

// uncounted is how many failures do not count yet.
func (p *pair) uncounted() int { return int(p.sealed) + int(p.waiting) }

// begin starts the excursion anew.
func (b *Book) begin(gen uint64) {
	b.gen = gen
	b.excursion++
	if b.excursion == 0 { // the numbers begin again, and old pairs would be taken for current
		b.pairs.Store(nil)
		b.excursion = 1
	}
	b.failures, b.own, b.evicted, b.ownCauses = 0, 0, 0, causes{}
	b.chain, b.chainEnd, b.outage = 0, 0, false
	b.run, b.runOwn, b.servedRun = 0, 0, b.served.Load()
	b.row, b.wave = spread{}, spread{}
}

// endByServing ends an excursion because the proxy works.
func (b *Book) endByServing(l *Ledger) {
	for p := b.pairs.Load(); p != nil; p = p.next.Load() {
		if p.excursion == b.excursion && p.counted > 0 && p.bans < math.MaxUint8 {
			p.bans++
		}
	}
	run, runOwn, servedRun, row, wave := b.run, b.runOwn, b.servedRun, b.row, b.wave
	b.begin(b.gen)
	b.run, b.runOwn, b.servedRun, b.row, b.wave = run, runOwn, servedRun, row, wave
}

// spread counts failures without a success between them: those of the
// proxy's own kinds, all, and those at the first two targets.
type spread struct {
	all, own      int
	first, second struct {
		target uint64
		n      int
	}
}

func (s *spread) add(a *Attempt) {
	s.all++
	switch {
	case a.Own:
		s.own++
	case s.first.n == 0 || a.Target.Hash == s.first.target:
		s.first.target = a.Target.Hash
		s.first.n++
	case s.second.n == 0 || a.Target.Hash == s.second.target:
		s.second.target = a.Target.Hash
		s.second.n++
	}
}

// elsewhere counts the failures that are not at the target that fails most.
func (s *spread) elsewhere() int { return s.all - max(s.first.n, s.second.n) }

// several reports whether it is not one target that fails: a single failure
// elsewhere may be noise.
func (s *spread) several() bool { return s.elsewhere() >= 2 }

// everythingFails reports whether the proxy has failed often enough since
// the pool's last success, at several targets or by faults of its own, and more
// often than the pool's noise explains. The failures elsewhere than at one
// target are weighed by themselves, and are a fifth at least: that target may be
// dead, and much more in use.
func (b *Book) everythingFails(l *Ledger, threshold int) bool {
	if b.wave.all < threshold || !b.wave.several() {
		return false
	}
	noise, own := l.poolNoise()
	up, _ := gain(min(noise+own-floor, P1))
	elsewhere := b.wave.elsewhere()
	return 5*elsewhere >= b.wave.all && float64(b.wave.all)*up >= Needed && float64(elsewhere)*up >= 0.6*Needed
}

// fail records a failure at a target.
func (b *Book) fail(l *Ledger, t *target, a *Attempt) {
	p := b.pair(l, t, a)
	if p.excursion != b.excursion {
		p.excursion, p.counted, p.sealed, p.waiting, p.causes = b.excursion, 0, 0, 0, causes{}
		p.served0, p.failed0 = p.served.Load(), p.failed
		p.restServed0, p.restFailed0 = p.others()
	}
	p.settle(a.Proxy, a.At)
	if p.waiting < math.MaxUint8 {
		p.waiting++
	}
	p.failed++
	if p.sealed == 0 {
		p.seal(a.At)
	}
	if p.pending.Add(1) == 1 {
		p.bans = 0 // the target has served the proxy meanwhile
	}
	p.causes.count(a.Cause)
}

// pair returns the record of a target, a new one if there is none. The record
// without a failure for the longest time makes room.
func (b *Book) pair(l *Ledger, t *target, a *Attempt) *pair {
	n := 0
	for p := b.pairs.Load(); p != nil; p = p.next.Load() {
		if p.target == t {
			return p
		}
		n++
	}
	if n >= maxPairs {
		b.drop(l, a)
	}
	p := &pair{target: t, excursion: b.excursion - 1}
	p.next.Store(b.pairs.Load())
	b.pairs.Store(p)
	return p
}

// drop removes a pair of a former excursion, or else the oldest.
func (b *Book) drop(l *Ledger, a *Attempt) {
	var place, link *atomic.Pointer[pair]
	past := false
	for link = &b.pairs; link.Load() != nil; link = &link.Load().next {
		if p := link.Load(); p.excursion != b.excursion || !past {
			place, past = link, past || p.excursion != b.excursion
		}
	}
	p := place.Load()
	if p.excursion == b.excursion {
		noise, _ := l.poolNoise()
		p.settle(a.Proxy, b.last)
		v, _, _ := p.weigh(noise)
		b.evicted += v
		b.served0 += uint64(p.served.Load() - p.served0)
	}
	place.Store(p.next.Load())
}

// weigh returns the evidence of the failures that count, of one failure, and
// the noise it was measured by.
func (p *pair) weigh(pool float64) (value, failure, noise float64) {
	served := p.served.Load() - p.served0
	failed := p.failed - p.failed0
	q := p.target.noise(pool, served, failed-min(failed, p.pending.Load()))
	up, down := gain(q)
	return float64(p.counted)*up + float64(served)*down, up, q
}

// sum is a proxy's evidence.
type sum struct {
	total    float64
	possible float64 // if the failures that wait come to count
}

// evidence adds up what the failures since the excursion began say.
func (b *Book) evidence(l *Ledger, a *Attempt) sum {
	noise, ownNoise := l.poolNoise()
	several := l.severalTargets()
	elsewhere := b.served.Load() - b.served0 // successes at targets without a pair
	served := elsewhere > 0
	failing, counted, alone := 0, int(b.own), 0 // targets with failures that count, and these failures
	for p := b.pairs.Load(); p != nil; p = p.next.Load() {
		if p.excursion == b.excursion {
			p.settle(a.Proxy, b.last)
			if p.counted > 0 {
				failing++
				counted += int(p.counted)
			}
			elsewhere -= min(elsewhere, uint64(p.served.Load()-p.served0))
			// One failure at each of many targets is no reason: hosts that are dead, and
			// asked for once. Nor is a suspect target, which gets one attempt a request.
			if n := p.uncounted(); n > 1 && !p.target.suspect.Load() && p.target.only(a.Proxy) {
				alone += n
			}
		}
	}
	enough := min(2*a.Threshold, uncompared)
	compare := a.Peers > 0 && (alone < enough || b.chain < enough)
	ownUp, _ := gain(ownNoise)
	_, down := gain(noise)
	s := sum{total: float64(b.own)*ownUp + float64(elsewhere)*down + b.evicted}
	s.possible = s.total
	for p := b.pairs.Load(); p != nil; p = p.next.Load() {
		if p.excursion != b.excursion {
			continue
		}
		value, up, _ := p.weigh(noise)
		if !compare && (a.Peers == 0 || p.target.only(a.Proxy)) {
			value += float64(p.uncounted()) * up
		}
		part := value
		if several && p.served.Load() == p.served0 {
			limit := banned * math.Pow(0.25, float64(p.bans))
			broad := counted-int(p.counted) >= 3 && b.row.elsewhere() >= 4 // other targets fail as well
			switch {
			case p.bans > 0 && !broad, served && !b.row.several():
				part = min(value, limit)
			case failing == 1 && b.own == 0:
				part = min(value, max(limit, value-Needed))
			}
		}
		s.total += part
		s.possible += max(part, min(value+float64(min(p.uncounted(), p.hope()))*up, Needed))
	}
	return s
}
