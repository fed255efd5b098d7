package cluster

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/parts"
)

// The times of parts.
const (
	refreshPart = time.Second            // time between two draws of a limit that is in use; it grows with their number
	partLasts   = 5                      // a part ends this many refreshPart after its last draw
	idlePart    = 10 * time.Second       // time without use after which a part is given back
	hungryFor   = time.Second            // time for which a node wants more after it has used its whole part
	inFlightFor = 5 * time.Second        // time for which a node keeps places in flight that it has used
	askAgain    = 200 * time.Millisecond // time between two draws if the last one gave no more
	spentAgain  = time.Second            // the same if the amount of the day is spent
	// partsFor is the time for which the store keeps the record of a daily limit after the last draw of the day.
	partsFor = 25 * time.Hour
)

// maxDraws is the maximum number of draws in one exchange.
const maxDraws = 200

// refreshRate is about the largest number of regular draws that a node makes in a second. If the node uses more limits,
// the time between two draws of a limit grows.
const refreshRate = 1000

// firstPart is a divisor. Before its first draw of a limit, a node uses its equal share divided by firstPart or, if
// parts.Use.Whole is set, the whole equal share.
const firstPart = 8

// SharedLimits are the limits of a gateway that hold for all nodes together.
type SharedLimits interface {
	// SetShare sets how much the gateway may use of a limit as long as it has no part of this limit (parts.First).
	SetShare(s parts.Share)
	// EachUsed calls f for limits of which the gateway has no part yet, if it uses them now or needs more of them
	// (parts.Use.Short). After a call with all set, the following calls also pass each daily limit of which something
	// was used today, even if the gateway has a part of it. A call returns soon, and may leave some limits to the
	// following calls.
	EachUsed(all bool, f func(parts.Limit))
	// Raised reports that the gateway's parts of limits have become larger. It is called at most once in an exchange.
	Raised()
}

// sharing holds the shared limits that the node uses. Node.mu guards it.
type sharing struct {
	local   SharedLimits     // nil without shared limits
	holder  string           // of amounts
	process string           // holder of the other limits
	used    map[string]*part // by parts.Limit.Key
	nodes   int              // live nodes at the last exchange
	share   parts.Share      // of the last SetShare
	all     bool             // the store may lack the use of some amounts
	lost    bool             // the store has lost its data in the time of this process
	hungry  bool             // the node wants more of a limit
	equal   bool             // the parts are equal shares, see alone
	raised  bool             // a part has become larger; see tellRaised
	counts  PartCounts
}

// PartCounts are the counters of shared limits.
type PartCounts struct {
	Draws  uint64 // parts that were reported to the store
	Raised uint64 // parts that became larger
}

// part is this node's part of one shared limit. The amounts are those of the store: they include what an earlier
// process has used (offset).
type part struct {
	limit    parts.Limit
	key      string
	use      parts.Use
	offset   int64     // used by an earlier process of this holder, as the store has it; not in use.Used
	told     int64     // the most that this process has reported
	part     int64     // what the gateway may use, or uses
	held     int64     // the part as the store has it; at least part
	target   int64     // the fair part
	total    int64     // used by all nodes
	base     int64     // used by this node when total was true
	drawn    time.Time // of the last draw; zero if the store may not have it
	gave     bool      // that draw gave more
	used     time.Time // last use
	hungry   time.Time // when the node last used its whole part
	began    time.Time // of the present second or, for attempts in flight, time inFlightFor
	now, was int64     // uses, or the highest number in flight, in this time and in the one before
}

// AttachLimits sets the shared limits of the gateway. The parameter holder identifies the gateway in the store, also
// after a restart if the used amounts survive the restart. The parameter process identifies this process, because a new
// process may take over the sockets of an old one that still has requests in flight. Both must have no spaces.
// AttachLimits must be called before Run and Step.
func (n *Node) AttachLimits(l SharedLimits, holder, process string) {
	n.sharing = sharing{local: l, holder: holder, process: process, used: map[string]*part{}, nodes: 1, all: true}
	n.sharing.setShare(firstPart, true)
}

func (p *sharing) setShare(fraction int64, alone bool) {
	if s := (parts.Share{Nodes: int64(p.nodes), Fraction: fraction, Alone: alone}); p.share != s {
		p.share = s
		p.local.SetShare(s)
	}
}

// refresh returns the time between two regular draws of a limit.
func (p *sharing) refresh() time.Duration {
	return refreshPart * time.Duration(max(len(p.used), refreshRate)) / refreshRate
}

// lasts returns the time for which the store keeps a part after its draw.
func (p *sharing) lasts() time.Duration { return partLasts * p.refresh() }

// read updates p with the gateway's use of the shared limits. It forgets the limits that the gateway does not have any
// more.
func (p *sharing) read(now time.Time) {
	p.local.EachUsed(p.all, func(l parts.Limit) {
		if key := l.Key(); p.used[key] == nil {
			u := l.Use()
			p.used[key] = &part{limit: l, key: key, use: u, part: max(u.Part, u.Used), target: math.MaxInt64,
				total: u.Total, base: u.Base, used: now, began: now}
		}
	})
	p.all = false
	for key, e := range p.used {
		u := e.limit.Use()
		if u.Limit <= 0 || u.Kind != e.use.Kind || u.Day != e.use.Day {
			e.limit.Release(parts.First(u.Limit, p.share.Divisor()), 0, u.Used)
			delete(p.used, key)
			continue
		}
		e.note(u, now)
	}
}

// note takes over the use u.
func (e *part) note(u parts.Use, now time.Time) {
	window := time.Second
	if u.Kind == parts.InFlight {
		window = inFlightFor
	}
	if now.Sub(e.began) >= window {
		e.began, e.was, e.now = now, e.now, 0
	}
	recent, short := u.Count-e.use.Count, u.Used+e.offset >= e.part
	switch u.Kind {
	case parts.InFlight:
		recent += u.Used
		e.now = max(e.now, u.Used)
	case parts.Rate:
		short = u.Empty
		e.now += recent
	default:
		e.now += recent
	}
	if recent != 0 || u.Kind == parts.Rate && short {
		e.used = now
	}
	if short {
		e.hungry = now
	}
	e.use = u
}

func (e *part) isHungry(now time.Time) bool {
	return !e.hungry.IsZero() && now.Sub(e.hungry) < hungryFor
}

// idle reports whether the node has not used the limit lately. A rate that admits no attempt now counts as used.
func (e *part) idle(now time.Time) bool { return now.Sub(e.used) >= idlePart }

// spent returns the amount that the node has used of the limit: on this day if the limit is daily, otherwise now.
func (e *part) spent() int64 {
	if e.use.Kind == parts.Daily {
		return e.use.Used + e.offset
	}
	return e.use.Used
}

// least returns the smallest part of the limit that the node keeps while it uses the limit.
func (e *part) least(nodes int) int64 {
	switch e.use.Kind {
	case parts.Rate:
		return parts.First(e.use.Limit, int64(firstPart*nodes))
	case parts.Daily:
		return e.spent()
	}
	return 0
}

// rest returns the amount of a daily limit that all nodes together have not used, as far as this node knows.
func (e *part) rest() int64 { return max(e.use.Limit-e.total-max(e.spent()-e.base, 0), 0) }

// wants returns the part of the limit for which the node asks.
func (e *part) wants(now time.Time, nodes int) int64 {
	limit, recent := e.use.Limit, max(e.now, e.was)
	hungry := e.isHungry(now)
	switch e.use.Kind {
	case parts.Daily:
		ahead := max(e.rest()/int64(4*nodes), 4*recent, 1)
		if hungry {
			ahead = limit
		}
		return max(min(e.spent()+ahead, limit), e.spent())
	case parts.Rate:
		if hungry || limit < parts.RateUnit {
			return limit
		}
		return min(max(2*recent*parts.RateUnit, parts.First(limit, int64(firstPart*nodes))), limit)
	}
	if hungry || e.use.Whole && nodes == 1 {
		return limit
	}
	return min(max(recent+recent/2+1, parts.First(limit, int64(firstPart*nodes))), limit)
}

// set changes the part to the given size. If the gateway uses more than this, the part becomes what it uses.
func (e *part) set(to int64) {
	e.part = e.limit.SetPart(max(to-e.offset, 0), e.total, e.ownBase()) + e.offset
}

// ownBase returns base without offset.
func (e *part) ownBase() int64 { return max(e.base-e.offset, 0) }

// send adds to ops the draws that are due, at most maxDraws. The limits with the oldest last draw come first.
func (p *sharing) send(ops []pending, now time.Time) []pending {
	type due struct {
		*part
		want int64
		idle bool
	}
	var list []due
	refresh := p.refresh()
	p.hungry = false
	for _, e := range p.used {
		d := due{part: e, idle: e.idle(now)}
		if d.want = e.wants(now, p.nodes); d.idle {
			d.want = 0
			if e.use.Kind == parts.Daily {
				d.want = e.spent()
			}
		}
		if low := max(e.target, e.least(p.nodes)); low < e.part {
			e.set(low) // the other nodes need the rest
		}
		since, wait := now.Sub(e.drawn), refresh
		switch {
		case e.drawn.IsZero() || e.target < e.held && e.part < e.held:
			wait = 0
		case e.use.Kind == parts.Daily && e.total >= e.use.Limit:
			wait = max(wait, spentAgain)
		case e.use.Kind == parts.Daily && d.want > e.part && (e.part-e.spent()) < (d.want-e.spent())/2,
			e.use.Kind != parts.Daily && d.want > e.part:
			wait = askAgain
			if e.gave {
				wait = minExchange
			}
		}
		p.hungry = p.hungry || wait <= minExchange
		if since >= wait {
			list = append(list, d)
		}
	}
	slices.SortFunc(list, func(a, b due) int {
		return cmp.Or(a.drawn.Compare(b.drawn), cmp.Compare(a.key, b.key))
	})
	for _, d := range list[:min(len(list), maxDraws, max(maxOps-len(ops), 0))] {
		ops = append(ops, p.draw(d.part, d.want, d.idle, now))
	}
	return ops
}

// first returns the part of a limit that the node uses without a draw, for example after it has given its part back.
func (p *sharing) first(e *part) int64 {
	switch {
	case e.use.Whole:
		return parts.First(e.use.Limit, int64(p.nodes))
	case e.use.Kind != parts.Daily:
		return parts.First(e.use.Limit, int64(firstPart*p.nodes))
	}
	rest := e.rest()
	if rest > 0 {
		rest = parts.First(rest, int64(firstPart*p.nodes))
	}
	return e.spent() + rest
}

// draw returns the operation that reports the part e to the store. Before that, it reduces the part to what the node
// wants. If the parameter idle is set, the node gives back all that it has not used.
func (p *sharing) draw(e *part, want int64, idle bool, now time.Time) pending {
	keep := max(want, e.least(p.nodes))
	if idle {
		keep = p.first(e)
	}
	if keep < e.part {
		e.set(keep)
	}
	u := e.use
	d := &Draw{Holder: p.process, Daily: u.Kind == parts.Daily, Limit: u.Limit, Used: u.Used, Part: e.part, Want: want,
		Keep: p.lasts()}
	if !p.lost {
		d.Young = u.Limit / int64(p.nodes) // the whole cluster may have just started
	}
	key := e.key
	if d.Daily {
		key = keyOf(key, strconv.FormatInt(u.Day, 10))
		d.Holder, d.Used, d.Keep = p.holder, e.spent(), partsFor
		e.told = max(e.told, d.Used)
	}
	if idle {
		d.Part = 0
		if d.Daily {
			d.Part = d.Used
		}
	}
	d.limitAmounts()
	return pending{op: Op{Kind: Share, Key: key, TTL: p.lasts(), Draw: d}, drawn: func(r Drawn) {
		p.counts.Draws++
		if d.Daily {
			// What r.Own has beyond the reported amount was used by an earlier process. This process may have reported
			// a larger amount before.
			e.offset += max(r.Own-max(d.Used, e.told), 0)
		}
		e.total, e.base, e.target, e.drawn = r.Used, max(d.Used, r.Own), r.Target, now
		e.held, e.gave = r.Part, r.Part > d.Part
		switch {
		case idle:
			e.limit.Release(max(p.first(e)-e.offset, 0), e.total, e.ownBase())
			delete(p.used, e.key)
		case e.gave:
			e.set(r.Part)
			p.counts.Raised++
			p.raised = true
		default:
			e.set(min(e.part, r.Part, max(e.target, e.least(p.nodes))))
		}
	}}
}

// alone makes each part an equal share of its limit; for a daily limit, a share of what was left. The node's parts have
// ended in the store, because the node has not reached the store for too long a time.
func (p *sharing) alone() {
	p.setShare(1, true)
	p.equal = true
	for _, e := range p.used {
		u, before := &e.use, e.part
		e.drawn, e.target = time.Time{}, math.MaxInt64
		if u.Kind == parts.Daily {
			e.set(e.base + max(u.Limit-e.total, 0)/int64(p.nodes))
		} else {
			e.set(parts.First(u.Limit, int64(p.nodes)))
		}
		p.raised = p.raised || e.part > before
	}
	p.tellRaised()
}

// tellRaised tells the gateway that parts have become larger, if any has.
func (p *sharing) tellRaised() {
	if p.raised {
		p.raised = false
		p.local.Raised()
	}
}

// join ends the equal shares (see alone), because the store can be reached. Until the next draw of a limit, the node
// has at most the part that sharing.first returns.
func (p *sharing) join() {
	if !p.equal {
		return
	}
	p.equal, p.hungry = false, true
	p.setShare(firstPart, false)
	for _, e := range p.used {
		e.set(min(e.part, p.first(e)))
	}
}

// lose makes the node report all that it has used, because the store has lost its data.
func (p *sharing) lose() {
	p.all, p.lost = true, true
	for _, e := range p.used {
		e.drawn, e.target = time.Time{}, math.MaxInt64
	}
}

// shareParts adds the draws to ops. The caller holds Node.mu, as do the callers of the methods of sharing.
func (n *Node) shareParts(ops []pending, now time.Time) []pending {
	p := &n.sharing
	if p.local == nil {
		return ops
	}
	p.read(now)
	if n.alone {
		last := n.localAt
		if !n.reached {
			last = n.started
		}
		if now.Sub(last) >= p.lasts() {
			p.alone()
		} else {
			p.setShare(firstPart, true)
		}
		return ops
	}
	live := max(len(n.live()), 1)
	if n.counts.Alone > 0 && now.Sub(n.aloneAt) < n.liveTime() {
		live = max(live, p.nodes) // after a time alone, the records of other nodes are old
	}
	p.nodes, p.equal = live, false
	p.setShare(firstPart, false)
	return p.send(ops, now)
}

// leaveParts returns the operations with which the node gives its parts of the shared limits back.
func (n *Node) leaveParts(now time.Time) (ops []Op) {
	p := &n.sharing
	if p.local == nil {
		return nil
	}
	p.read(now)
	for _, key := range slices.Sorted(maps.Keys(p.used)) {
		if e := p.used[key]; len(ops) < maxOps && (e.use.Used == 0 || e.use.Kind == parts.Daily) {
			ops = append(ops, p.draw(e, e.spent(), true, now).op)
		}
	}
	return ops
}

// LimitStatus is a shared limit in use.
type LimitStatus struct {
	Key   string
	Kind  parts.Kind
	Limit int64
	Used  int64 // by all nodes at the last draw; 0 for a rate
	Here  int64 // used by this node; 0 for a rate
	Part  int64 // of this node
	Short bool  // this node has used its whole part lately
}

// limitStatus returns the shared limits that the node uses, at most maxListed. It also returns the number of all of
// them, and of those with LimitStatus.Short.
func (n *Node) limitStatus(now time.Time) (out []LimitStatus, all, short int) {
	p := &n.sharing
	for _, key := range slices.Sorted(maps.Keys(p.used)) {
		e := p.used[key]
		s := LimitStatus{Key: key, Kind: e.use.Kind, Limit: e.use.Limit, Used: e.total, Here: e.spent(), Part: e.part,
			Short: e.isHungry(now) && e.part < e.use.Limit}
		if s.Used = max(s.Used, s.Here); s.Kind == parts.Rate {
			s.Used, s.Here = 0, 0
		}
		if s.Short {
			short++
		}
		if len(out) < maxListed {
			out = append(out, s)
		}
	}
	return out, len(p.used), short
}
