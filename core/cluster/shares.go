package cluster

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/share"
)

// The times of shares.
const (
	renewInterval      = time.Second            // time between two requests of a limit; grows with the number of limits
	leaseIntervals     = 5                      // a share ends this many renewInterval after its last request
	idleTime           = 10 * time.Second       // time without use after which a share is given back
	exhaustedTime      = time.Second            // time for which a node wants more after it has used its whole share
	inFlightPeriod     = 5 * time.Second        // time for which a node keeps places in flight that it has used
	retryInterval      = 200 * time.Millisecond // time between two requests after a reply without a larger share
	spentRetryInterval = time.Second            // as retryInterval, if the amount of the day is spent
	// dailyRecordTime is the time for which the store keeps the record of a daily limit after the last request of the
	// day.
	dailyRecordTime = 25 * time.Hour
)

// maxShareRequests is the maximum number of requests in one exchange.
const maxShareRequests = 200

// refreshRate is the approximate maximum number of regular requests per second of a node. If the node uses many limits,
// the time between two requests of a limit grows.
const refreshRate = 1000

// Before its first request of a limit, a node uses 1/initialDivisor of its equal share. If
// share.Use.InitialIsEqualShare is set, it uses the whole equal share.
const initialDivisor = 8

// SharedLimits are the limits of a gateway that hold for all nodes together.
type SharedLimits interface {
	// SetInitialShares sets how much of a limit the gateway may use while it has no share of this limit
	// (share.Initial).
	SetInitialShares(s share.InitialShares)
	// EachUsed calls f for limits that the gateway uses now, or needs more of (share.Use.NeedsMore), but of which it
	// has no share yet. If all is set, this and the following calls also pass each daily limit that was used today,
	// even if the gateway has a share of it. A call returns soon, and may leave some limits to the following calls.
	EachUsed(all bool, f func(share.Limit))
	// SharesGrown reports that the gateway's shares of limits have become larger. It is called at most once in an
	// exchange.
	SharesGrown()
}

// sharing holds the shared limits that the node uses. Node.mu guards it.
type sharing struct {
	local         SharedLimits          // nil without shared limits
	holder        string                // of amounts
	process       string                // holder of all other limits
	byKey         map[string]*nodeShare // by share.Limit.Key
	nodes         int                   // live nodes at the last exchange
	initialShares share.InitialShares   // of the last SetInitialShares
	reportAll     bool                  // the store may lack the use of some amounts
	storeLostData bool                  // the store has lost its data since this process started
	wantsMore     bool                  // the node wants more of a limit
	isEqual       bool                  // the shares are equal shares, see useEqualShares
	hasGrown      bool                  // a share has become larger; see reportGrowth
	counts        ShareCounts
}

// ShareCounts are the counters of shared limits.
type ShareCounts struct {
	Requests uint64 // shares that were reported to the store
	Grown    uint64 // shares that became larger
}

// nodeShare is this node's share of one shared limit. As in the store, the amounts include the use by an earlier
// process (earlierUse).
type nodeShare struct {
	limit                    share.Limit
	key                      string
	use                      share.Use
	earlierUse               int64     // use by an earlier process of this holder, as the store has it; not in use.Used
	maxReported              int64     // the largest amount that this process has reported
	size                     int64     // the share: the amount that the gateway may use, or the larger amount in use
	storedSize               int64     // the share as the store has it; at least size
	fairSize                 int64     // the fair share
	totalUsed                int64     // used by all nodes
	usedAtTotal              int64     // used by this node at the time of totalUsed
	requestedAt              time.Time // of the last request; zero if the store may not have it
	hasGrown                 bool      // the last request has made the share larger
	usedAt                   time.Time // last use
	exhaustedAt              time.Time // when the node last used its whole share
	periodBegin              time.Time // of this period: a second or, for attempts in flight, inFlightPeriod
	periodUse, lastPeriodUse int64     // number of uses or, for attempts in flight, the highest number in the period
}

// AttachLimits sets the shared limits of the gateway. The parameter holder identifies the gateway in the store, also
// after a restart if the used amounts survive the restart. The parameter process identifies this process, because a new
// process may take over the sockets of an old one that still has requests in flight. Both must have no spaces.
// AttachLimits must be called before Run and Step.
func (n *Node) AttachLimits(l SharedLimits, holder, process string) {
	n.sharing = sharing{local: l, holder: holder, process: process, byKey: map[string]*nodeShare{}, nodes: 1,
		reportAll: true}
	n.sharing.setInitialShares(initialDivisor, true)
}

func (p *sharing) setInitialShares(fraction int64, alone bool) {
	if s := (share.InitialShares{Nodes: int64(p.nodes), Fraction: fraction, Alone: alone}); p.initialShares != s {
		p.initialShares = s
		p.local.SetInitialShares(s)
	}
}

// renewalTime returns the time between two regular requests of a limit.
func (p *sharing) renewalTime() time.Duration {
	return renewInterval * time.Duration(max(len(p.byKey), refreshRate)) / refreshRate
}

// leaseTime returns the time for which the store keeps a share after its request.
func (p *sharing) leaseTime() time.Duration { return leaseIntervals * p.renewalTime() }

// readUse updates p with the gateway's use of the shared limits. It forgets the limits that the gateway does not have
// any more.
func (p *sharing) readUse(now time.Time) {
	p.local.EachUsed(p.reportAll, func(l share.Limit) {
		if key := l.Key(); p.byKey[key] == nil {
			u := l.Use()
			p.byKey[key] = &nodeShare{limit: l, key: key, use: u, size: max(u.Share, u.Used), fairSize: math.MaxInt64,
				totalUsed: u.Total, usedAtTotal: u.UsedAtTotal, usedAt: now, periodBegin: now}
		}
	})
	p.reportAll = false
	for key, e := range p.byKey {
		u := e.limit.Use()
		if u.Limit <= 0 || u.Kind != e.use.Kind || u.Day != e.use.Day {
			e.limit.ReleaseShare(share.Initial(u.Limit, p.initialShares.Divisor()), 0, u.Used)
			delete(p.byKey, key)
			continue
		}
		e.setUse(u, now)
	}
}

// setUse sets the current use of the limit, and updates the figures about earlier use.
func (e *nodeShare) setUse(u share.Use, now time.Time) {
	window := time.Second
	if u.Kind == share.InFlight {
		window = inFlightPeriod
	}
	if now.Sub(e.periodBegin) >= window {
		e.periodBegin, e.lastPeriodUse, e.periodUse = now, e.periodUse, 0
	}
	recent, short := u.Count-e.use.Count, u.Used+e.earlierUse >= e.size
	switch u.Kind {
	case share.InFlight:
		recent += u.Used
		e.periodUse = max(e.periodUse, u.Used)
	case share.Rate:
		short = u.HasNoToken
		e.periodUse += recent
	default:
		e.periodUse += recent
	}
	if recent != 0 || u.Kind == share.Rate && short {
		e.usedAt = now
	}
	if short {
		e.exhaustedAt = now
	}
	e.use = u
}

func (e *nodeShare) isExhausted(now time.Time) bool {
	return !e.exhaustedAt.IsZero() && now.Sub(e.exhaustedAt) < exhaustedTime
}

// isIdle reports whether the node has not used the limit lately. A rate that admits no attempt now counts as used.
func (e *nodeShare) isIdle(now time.Time) bool { return now.Sub(e.usedAt) >= idleTime }

// usedAmount returns the amount that the node has used of the limit: on this day if the limit is daily, otherwise now.
func (e *nodeShare) usedAmount() int64 {
	if e.use.Kind == share.Daily {
		return e.use.Used + e.earlierUse
	}
	return e.use.Used
}

// minSize returns the smallest share of the limit that the node keeps while it uses the limit.
func (e *nodeShare) minSize(nodes int) int64 {
	switch e.use.Kind {
	case share.Rate:
		return share.Initial(e.use.Limit, int64(initialDivisor*nodes))
	case share.Daily:
		return e.usedAmount()
	}
	return 0
}

// unusedAmount returns the amount of a daily limit that all nodes together have not used, as far as this node knows.
func (e *nodeShare) unusedAmount() int64 {
	return max(e.use.Limit-e.totalUsed-max(e.usedAmount()-e.usedAtTotal, 0), 0)
}

// wantedSize returns the share of the limit for which the node asks.
func (e *nodeShare) wantedSize(now time.Time, nodes int) int64 {
	limit, recent := e.use.Limit, max(e.periodUse, e.lastPeriodUse)
	exhausted := e.isExhausted(now)
	switch e.use.Kind {
	case share.Daily:
		ahead := max(e.unusedAmount()/int64(4*nodes), 4*recent, 1)
		if exhausted {
			ahead = limit
		}
		return max(min(e.usedAmount()+ahead, limit), e.usedAmount())
	case share.Rate:
		if exhausted || limit < share.RateUnit {
			return limit
		}
		return min(max(2*recent*share.RateUnit, share.Initial(limit, int64(initialDivisor*nodes))), limit)
	}
	if exhausted || e.use.InitialIsEqualShare && nodes == 1 {
		return limit
	}
	return min(max(recent+recent/2+1, share.Initial(limit, int64(initialDivisor*nodes))), limit)
}

// resize changes the share to the given size. If the gateway uses more than this, the amount that it uses becomes the
// share.
func (e *nodeShare) resize(to int64) {
	e.size = e.limit.SetShare(max(to-e.earlierUse, 0), e.totalUsed, e.ownUsedAtTotal()) + e.earlierUse
}

// ownUsedAtTotal returns the node's own use since its start, as of the latest total (usedAtTotal).
func (e *nodeShare) ownUsedAtTotal() int64 { return max(e.usedAtTotal-e.earlierUse, 0) }

// addRequests adds to ops the requests that are due, at most maxShareRequests. The limits with the oldest last request
// come first.
func (p *sharing) addRequests(ops []pending, now time.Time) []pending {
	type due struct {
		*nodeShare
		want int64
		idle bool
	}
	var list []due
	refresh := p.renewalTime()
	p.wantsMore = false
	for _, e := range p.byKey {
		d := due{nodeShare: e, idle: e.isIdle(now)}
		if d.want = e.wantedSize(now, p.nodes); d.idle {
			d.want = 0
			if e.use.Kind == share.Daily {
				d.want = e.usedAmount()
			}
		}
		if low := max(e.fairSize, e.minSize(p.nodes)); low < e.size {
			e.resize(low) // the other nodes need the rest
		}
		since, wait := now.Sub(e.requestedAt), refresh
		switch {
		case e.requestedAt.IsZero() || e.fairSize < e.storedSize && e.size < e.storedSize:
			wait = 0
		case e.use.Kind == share.Daily && e.totalUsed >= e.use.Limit:
			wait = max(wait, spentRetryInterval)
		case e.use.Kind == share.Daily && d.want > e.size && (e.size-e.usedAmount()) < (d.want-e.usedAmount())/2,
			e.use.Kind != share.Daily && d.want > e.size:
			wait = retryInterval
			if e.hasGrown {
				wait = minExchange
			}
		}
		p.wantsMore = p.wantsMore || wait <= minExchange
		if since >= wait {
			list = append(list, d)
		}
	}
	slices.SortFunc(list, func(a, b due) int {
		return cmp.Or(a.requestedAt.Compare(b.requestedAt), cmp.Compare(a.key, b.key))
	})
	for _, d := range list[:min(len(list), maxShareRequests, max(maxOps-len(ops), 0))] {
		ops = append(ops, p.newRequest(d.nodeShare, d.want, d.idle, now))
	}
	return ops
}

// initialSize returns the share of a limit that the node may use before a request to the store. This is also its share
// after it has given the share back.
func (p *sharing) initialSize(e *nodeShare) int64 {
	switch {
	case e.use.InitialIsEqualShare:
		return share.Initial(e.use.Limit, int64(p.nodes))
	case e.use.Kind != share.Daily:
		return share.Initial(e.use.Limit, int64(initialDivisor*p.nodes))
	}
	rest := e.unusedAmount()
	if rest > 0 {
		rest = share.Initial(rest, int64(initialDivisor*p.nodes))
	}
	return e.usedAmount() + rest
}

// newRequest returns the operation that reports the share e to the store. Before that, it reduces the share to the size
// that the node wants. If the parameter idle is set, the node gives back all that it has not used.
func (p *sharing) newRequest(e *nodeShare, want int64, idle bool, now time.Time) pending {
	keep := max(want, e.minSize(p.nodes))
	if idle {
		keep = p.initialSize(e)
	}
	if keep < e.size {
		e.resize(keep)
	}
	u := e.use
	d := &ShareRequest{Holder: p.process, Daily: u.Kind == share.Daily, Limit: u.Limit, Used: u.Used,
		Share: e.size, Want: want,
		RecordTime: p.leaseTime()}
	if !p.storeLostData {
		d.MaxWhileSettling = u.Limit / int64(p.nodes) // the whole cluster may have just started
	}
	key := e.key
	if d.Daily {
		key = keyOf(key, strconv.FormatInt(u.Day, 10))
		d.Holder, d.Used, d.RecordTime = p.holder, e.usedAmount(), dailyRecordTime
		e.maxReported = max(e.maxReported, d.Used)
	}
	if idle {
		d.Share = 0
		if d.Daily {
			d.Share = d.Used
		}
	}
	d.limitAmounts()
	return pending{op: Op{Kind: Share, Key: key, TTL: p.leaseTime(), Request: d}, onShareReply: func(r ShareReply) {
		p.counts.Requests++
		if d.Daily {
			// If the amount in the store is larger than all that this process has reported, an earlier process has used
			// the difference.
			e.earlierUse += max(r.HolderUsed-max(d.Used, e.maxReported), 0)
		}
		e.totalUsed, e.usedAtTotal, e.fairSize, e.requestedAt = r.TotalUsed, max(d.Used, r.HolderUsed), r.FairShare, now
		e.storedSize, e.hasGrown = r.Share, r.Share > d.Share
		switch {
		case idle:
			e.limit.ReleaseShare(max(p.initialSize(e)-e.earlierUse, 0), e.totalUsed, e.ownUsedAtTotal())
			delete(p.byKey, e.key)
		case e.hasGrown:
			e.resize(r.Share)
			p.counts.Grown++
			p.hasGrown = true
		default:
			e.resize(min(e.size, r.Share, max(e.fairSize, e.minSize(p.nodes))))
		}
	}}
}

// useEqualShares makes each share an equal share of its limit; for a daily limit, an equal share of the amount that was
// left. The node's shares have ended in the store, because the node has not reached the store for too long a time.
func (p *sharing) useEqualShares() {
	p.setInitialShares(1, true)
	p.isEqual = true
	for _, e := range p.byKey {
		u, before := &e.use, e.size
		e.requestedAt, e.fairSize = time.Time{}, math.MaxInt64
		if u.Kind == share.Daily {
			e.resize(e.usedAtTotal + max(u.Limit-e.totalUsed, 0)/int64(p.nodes))
		} else {
			e.resize(share.Initial(u.Limit, int64(p.nodes)))
		}
		p.hasGrown = p.hasGrown || e.size > before
	}
	p.reportGrowth()
}

// reportGrowth calls SharedLimits.SharesGrown if a share has become larger.
func (p *sharing) reportGrowth() {
	if p.hasGrown {
		p.hasGrown = false
		p.local.SharesGrown()
	}
}

// endEqualShares ends the equal shares (see useEqualShares), because the store can be reached. Until the next request
// of a limit, the node has at most the share that sharing.initialSize returns.
func (p *sharing) endEqualShares() {
	if !p.isEqual {
		return
	}
	p.isEqual, p.wantsMore = false, true
	p.setInitialShares(initialDivisor, false)
	for _, e := range p.byKey {
		e.resize(min(e.size, p.initialSize(e)))
	}
}

// reportAllAgain makes the node report all that it has used, because the store has lost its data.
func (p *sharing) reportAllAgain() {
	p.reportAll, p.storeLostData = true, true
	for _, e := range p.byKey {
		e.requestedAt, e.fairSize = time.Time{}, math.MaxInt64
	}
}

// addShareRequests adds the requests to ops. The caller holds Node.mu, as do the callers of the methods of sharing.
func (n *Node) addShareRequests(ops []pending, now time.Time) []pending {
	p := &n.sharing
	if p.local == nil {
		return ops
	}
	p.readUse(now)
	if n.alone {
		last := n.localAt
		if !n.hasReached {
			last = n.started
		}
		if now.Sub(last) >= p.leaseTime() {
			p.useEqualShares()
		} else {
			p.setInitialShares(initialDivisor, true)
		}
		return ops
	}
	live := max(len(n.liveNodes()), 1)
	if n.counts.Alone > 0 && now.Sub(n.aloneAt) < n.liveTime() {
		live = max(live, p.nodes) // after a time alone, the records of other nodes are old
	}
	p.nodes, p.isEqual = live, false
	p.setInitialShares(initialDivisor, false)
	return p.addRequests(ops, now)
}

// releaseShares returns the operations with which the node gives its shares of the shared limits back.
func (n *Node) releaseShares(now time.Time) (ops []Op) {
	p := &n.sharing
	if p.local == nil {
		return nil
	}
	p.readUse(now)
	for _, key := range slices.Sorted(maps.Keys(p.byKey)) {
		if e := p.byKey[key]; len(ops) < maxOps && (e.use.Used == 0 || e.use.Kind == share.Daily) {
			ops = append(ops, p.newRequest(e, e.usedAmount(), true, now).op)
		}
	}
	return ops
}

// LimitStatus is a shared limit in use.
type LimitStatus struct {
	Key       string
	Kind      share.Kind
	Limit     int64
	Used      int64 // by all nodes at the last request; 0 for a rate
	UsedHere  int64 // used by this node; 0 for a rate
	Share     int64 // of this node
	NeedsMore bool  // this node has used its whole share lately
}

// limitStatus returns the shared limits that the node uses, at most maxListed. It also returns the number of all of
// them, and of those with LimitStatus.NeedsMore.
func (n *Node) limitStatus(now time.Time) (out []LimitStatus, all, short int) {
	p := &n.sharing
	for _, key := range slices.Sorted(maps.Keys(p.byKey)) {
		e := p.byKey[key]
		s := LimitStatus{Key: key, Kind: e.use.Kind, Limit: e.use.Limit, Used: e.totalUsed, UsedHere: e.usedAmount(),
			Share:     e.size,
			NeedsMore: e.isExhausted(now) && e.size < e.use.Limit}
		if s.Used = max(s.Used, s.UsedHere); s.Kind == share.Rate {
			s.Used, s.UsedHere = 0, 0
		}
		if s.NeedsMore {
			short++
		}
		if len(out) < maxListed {
			out = append(out, s)
		}
	}
	return out, len(p.byKey), short
}
