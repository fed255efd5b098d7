package evidence

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// pool simulates a pool of proxies in virtual time. Their circuit breakers open after 5 failures in 60 s
// if Finding.ShouldOpen is set, stay open for 30 s, or longer after repeated trips, and then admit a
// probe.
type pool struct {
	rng          *rand.Rand
	ledger       *Ledger
	proxies      []*proxy
	now          time.Duration
	step         time.Duration // between requests
	turn         int
	swept        time.Duration
	reconsidered time.Duration // last call of reconsider
	random       bool          // proxies are chosen at random, otherwise in turn
	tries        int           // attempts of a request, each through another proxy

	target func() int
	fails  func(proxy, target int) fault

	requests, served, refused, openings int
	opened                              map[int]int // openings by proxy
}

type fault uint8

const (
	none     fault = iota
	either         // the target or the proxy may have caused it
	own            // only the proxy can have caused it
	reported       // like either, and the proxy reports that it cannot reach the target
)

type proxy struct {
	id        int
	book      Book
	gen       uint64
	state     int // 0 closed, 1 open, 2 half-open
	probing   bool
	until     time.Duration
	closedAt  time.Duration
	trips     breaker.Trips
	checked   time.Duration // when package reach checks it next; 0 if it was reached when it failed last
	since     time.Duration // when it was found unreachable
	failures  []time.Duration
	attempts  int // since pool.mark
	lastFault fault
	live      int     // failures in the window when the breaker last opened
	evidence  float64 // against the proxy when the breaker last opened
}

var defaults = breaker.Default()

const (
	threshold = 5
	window    = time.Minute
)

func newPool(n int, rate float64, seed uint64) *pool {
	p := &pool{
		rng: rand.New(rand.NewPCG(seed, 1)), ledger: NewLedger(Config{}),
		step:  time.Duration(float64(time.Second) / rate),
		tries: 3, opened: map[int]int{}, now: time.Minute,
	}
	for i := range n {
		p.proxies = append(p.proxies, &proxy{id: i})
	}
	p.target = func() int { return 0 }
	p.fails = func(int, int) fault { return none }
	return p
}

var names = func() (s []string) {
	for i := range 2000 {
		s = append(s, fmt.Sprintf("t%d.example:443", i))
	}
	return s
}()

func site(i int) Target {
	name := "many"
	if i < len(names) {
		name = names[i]
	}
	return Target{Hash: uint64(i+1) * 0x9e3779b97f4a7c15, Name: name}
}

// check simulates a reachability check of package reach: the breaker of an unreachable proxy
// becomes half-open as soon as the proxy can be reached.
func (p *pool) check(x *proxy) {
	if x.checked == 0 || p.now < x.checked {
		return
	}
	if p.fails(x.id, 0) != own {
		x.until = p.now
		return
	}
	x.checked = p.now + max((p.now-x.since)/10, 250*time.Millisecond)
}

func (p *pool) admissible(x *proxy) bool {
	if x.state == 1 {
		p.check(x)
	}
	if x.state == 1 && p.now >= x.until {
		x.state, x.probing = 2, false
		x.gen++
	}
	return x.state == 0 || x.state == 2 && !x.probing
}

// choose returns a proxy that is not in tried, or nil. A retry is a probe only if no breaker is closed.
func (p *pool) choose(tried []*proxy) *proxy {
	if len(tried) > 0 {
		if x := p.chooseIf(tried, func(x *proxy) bool { return x.state == 0 }); x != nil {
			return x
		}
	}
	return p.chooseIf(tried, p.admissible)
}

func (p *pool) chooseIf(tried []*proxy, ok func(*proxy) bool) *proxy {
	n := len(p.proxies)
	from := p.turn
	p.turn++
	if p.random {
		from = p.rng.IntN(n)
	}
next:
	for i := range n {
		x := p.proxies[(from+i)%n]
		for _, t := range tried {
			if t == x {
				continue next
			}
		}
		if ok(x) {
			if !p.random {
				p.turn = (from + i + 1) % n
			}
			if x.state == 2 {
				x.probing = true
			}
			return x
		}
	}
	return nil
}

type attempt struct {
	x      *proxy
	gen    uint64
	target int
	fault  fault
	probe  bool
	began  time.Duration
}

func (p *pool) begin(x *proxy, target int) attempt {
	x.attempts++
	return attempt{x: x, gen: x.gen, target: target, fault: p.fails(x.id, target), probe: x.state == 2, began: p.now}
}

// peers returns the number of other proxies with a closed breaker.
func (p *pool) peers(x *proxy) int {
	n := 0
	for _, o := range p.proxies {
		if o != x && o.state == 0 {
			n++
		}
	}
	return n
}

func (p *pool) settle(t attempt) (f Finding) {
	x := t.x
	a := Attempt{
		Proxy: uint64(x.id+1) * 0x9e3779b97f4a7c15, Book: &x.book, BreakerGen: t.gen, Target: site(t.target),
		Ended: p.now, Began: t.began,
		OwnFailure: t.fault == own, ReportedByProxy: t.fault == reported,
		Threshold: threshold, Window: window, Cause: uint8(t.fault), ClosedPeers: p.peers(x),
	}
	if t.fault == none {
		p.ledger.RecordSuccess(&a)
		if t.probe && t.gen == x.gen {
			x.state, x.failures, x.closedAt = 0, nil, p.now
			x.gen++
		}
		return f
	}
	f = p.ledger.RecordFailure(&a)
	if t.gen != x.gen {
		return f
	}
	x.failures = append(x.failures, p.now)
	for p.now-x.failures[0] > window {
		x.failures = x.failures[1:]
	}
	x.lastFault = t.fault
	if t.probe || len(x.failures) >= threshold && f.ShouldOpen {
		p.open(x, t.probe)
	}
	return f
}

// open opens the breaker of a proxy, after a failed probe or by evidence.
func (p *pool) open(x *proxy, probe bool) {
	closed := p.now - x.closedAt
	if probe {
		closed = 0
	}
	x.state, x.until = 1, p.now+x.trips.CountTrip(closed, defaults.TimeoutDuration, defaults.MaxTimeout)
	x.gen++
	x.checked = 0
	if x.lastFault == own {
		x.checked, x.since = p.now+250*time.Millisecond, p.now
	}
	if !probe {
		p.openings++
		x.live, x.evidence = len(x.failures), x.book.Report(p.ledger).Evidence
		p.opened[x.id]++
	}
}

// reconsider does what the pool's sweep does ten times a second.
func (p *pool) reconsider() {
	for _, x := range p.proxies {
		for len(x.failures) > 0 && p.now-x.failures[0] > window {
			x.failures = x.failures[1:]
		}
		if x.state != 0 || len(x.failures) < threshold {
			continue
		}
		if r := p.ledger.Reconsider(&x.book, p.now, p.peers(x)); r.ShouldOpen && r.BreakerGen == x.gen {
			p.open(x, false)
		}
	}
}

func (p *pool) advance() {
	p.now += p.step
	if p.now-p.reconsidered >= 100*time.Millisecond {
		p.reconsidered = p.now
		p.reconsider()
	}
	if p.now-p.swept > 5*time.Second {
		p.swept = p.now
		p.ledger.Sweep(p.now)
	}
}

// request simulates a request with its retries. It reports whether the request succeeded.
func (p *pool) request() bool {
	p.advance()
	p.requests++
	target := p.target()
	tries := p.tries
	if p.ledger.IsSuspect(site(target)) && !p.ledger.AdmitRetries(site(target), false, p.now) {
		tries = 1
	}
	var tried [8]*proxy
	for i := range tries {
		x := p.choose(tried[:i])
		if x == nil {
			if i == 0 {
				p.refused++
			}
			return false
		}
		tried[i] = x
		t := p.begin(x, target)
		p.settle(t)
		if t.fault == none {
			p.served++
			return true
		}
	}
	return false
}

// batch simulates n requests at the same time. First all attempts of a round begin, then they end
// in random order.
func (p *pool) batch(n int) {
	type running struct {
		attempt
		tried []*proxy
		left  int
	}
	var round []*running
	for range n {
		p.requests++
		p.advance()
		r := &running{left: p.tries}
		r.target = p.target()
		if p.ledger.IsSuspect(site(r.target)) && !p.ledger.AdmitRetries(site(r.target), false, p.now) {
			r.left = 1
		}
		round = append(round, r)
	}
	for len(round) > 0 {
		var begun, again []*running
		for _, r := range round {
			x := p.choose(r.tried)
			if x == nil {
				if len(r.tried) == 0 {
					p.refused++
				}
				continue
			}
			r.attempt = p.begin(x, r.target)
			r.tried = append(r.tried, x)
			r.left--
			begun = append(begun, r)
		}
		p.rng.Shuffle(len(begun), func(i, j int) { begun[i], begun[j] = begun[j], begun[i] })
		for _, r := range begun {
			p.now += time.Microsecond
			p.settle(r.attempt)
			if r.fault == none {
				p.served++
			} else if r.left > 0 {
				again = append(again, r)
			}
		}
		round = again
	}
}

// mark sets the counts of attempts to 0.
func (p *pool) mark() {
	for _, x := range p.proxies {
		x.attempts = 0
	}
}

// noise returns a fault of a kind with probability share.
func (p *pool) noise(share float64, kind fault) fault {
	if p.rng.Float64() < share {
		return kind
	}
	return none
}

// flow keeps n requests in flight for a period. The function took returns the duration of an attempt, so that attempts
// do not end in the order in which they began.
func (p *pool) flow(n int, period time.Duration, took func(target int, f fault) time.Duration) {
	type running struct {
		attempt
		tried []*proxy
		left  int
		end   time.Duration
	}
	until := p.now + period
	var all []running
	start := func(r running) {
		if r.tried == nil {
			p.requests++
			r.target, r.left = p.target(), p.tries
			if p.ledger.IsSuspect(site(r.target)) && !p.ledger.AdmitRetries(site(r.target), false, p.now) {
				r.left = 1
			}
		}
		r.left--
		x := p.choose(r.tried)
		if x == nil {
			if r.tried == nil {
				p.refused++
			}
			return
		}
		r.attempt = p.begin(x, r.target)
		r.tried = append(r.tried, x)
		r.end = p.now + took(r.target, r.fault)
		i := sort.Search(len(all), func(i int) bool { return all[i].end >= r.end })
		all = slices.Insert(all, i, r)
	}
	for p.now < until {
		for refused := p.refused; len(all) < n && p.refused == refused; {
			start(running{})
		}
		if len(all) == 0 {
			p.now += time.Millisecond
			continue
		}
		r := all[0]
		all = all[1:]
		p.now = r.end
		p.settle(r.attempt)
		if r.fault == none {
			p.served++
		} else if r.left > 0 {
			start(r)
		}
	}
	for _, r := range all {
		p.now = r.end
		p.settle(r.attempt)
	}
}
