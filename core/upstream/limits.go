package upstream

import (
	"maps"
	"slices"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/limit"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
)

// SetLimit sets the default limits. A default applies to the proxies whose own configuration does not have this kind of
// limit.
func (p *Pool) SetLimit(l limit.Limit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = l
	for _, u := range p.Snapshot().All {
		u.setLimit()
	}
}

// HasLimits reports whether a proxy of the pool may have a Usage. If not, a selection need not consider limits.
func (p *Pool) HasLimits() bool { return p.hasLimits.Load() }

// setLimit creates, changes or removes the usage of the proxy's limits. The caller holds the pool's mu.
func (u *Upstream) setLimit() {
	spec, now := u.Spec(), u.now()
	l := spec.limit().WithDefaults(u.pool.limit)
	if spec.Extra().MaxInFlight > 0 {
		l.MaxInFlight = 0 // enter applies this limit
	}
	usage := u.usage.Load()
	switch {
	case l == limit.Limit{}:
		u.usage.Store(nil)
	case usage != nil:
		usage.SetLimit(l, now)
	default:
		usage = limit.NewUsage(l, u.Meter(), &u.pool.days, now)
		if u.pool.divisor > 0 {
			defer usage.SetDivisor(u.pool.divisor, now) // after the restore
		}
		if s, found := u.pool.earlierBytes[u.id]; found {
			usage.Restore(s, now)
			delete(u.pool.earlierBytes, u.id)
		}
		u.usage.Store(usage)
		u.pool.hasLimits.Store(true)
	}
}

// Usage returns the usage of the proxy's limits; nil if it has none. It does not include max_in_flight of the proxy's
// own configuration.
func (u *Upstream) Usage() *limit.Usage { return u.usage.Load() }

// LimitUse is the usage of the limits of a proxy.
type LimitUse struct {
	Bytes int64     // since 00:00 UTC
	Until time.Time // when its limits admit an attempt again; zero if they admit one now, or if the time is unknown
}

// LimitUse returns the usage of the proxy's limits, and whether the proxy has limits.
func (u *Upstream) LimitUse() (use LimitUse, ok bool) {
	usage, now := u.Usage(), u.now()
	if usage == nil {
		return LimitUse{}, false
	}
	state, _ := usage.Check(now)
	return LimitUse{usage.BytesToday(now), state.Until}, true
}

// Limit returns the limits that the proxy has, by its own configuration or by SetLimit.
func (u *Upstream) Limit() limit.Limit { return u.Spec().limit().WithDefaults(u.pool.currentLimit()) }

func (p *Pool) currentLimit() limit.Limit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limit
}

// keepUsed keeps the number of bytes that the removed proxy u has transmitted today, for the limit on bytes. If another
// proxy with the same id (next) has replaced u, the bytes count for that proxy. The caller holds mu.
func (p *Pool) keepUsed(u, next *Upstream) {
	usage, now := u.Usage(), u.now()
	if usage == nil {
		return
	}
	used, ok := usage.SavedUsage(u.id, now)
	switch {
	case !ok:
	case next != nil && next != u:
		if usage := next.Usage(); usage != nil {
			usage.Restore(used, now)
		}
	case len(p.earlierBytes) < maxAbsent:
		p.earlierBytes[u.id] = used
	}
}

// UsedBytes returns the numbers of bytes that proxies with a limit on bytes have transmitted today. The result includes
// proxies that are not in the pool.
func (p *Pool) UsedBytes(now time.Time) (out []limit.SavedUsage) {
	p.mu.Lock()
	today := p.days.Day(now)
	maps.DeleteFunc(p.earlierBytes, func(_ string, s limit.SavedUsage) bool { return s.Day != today })
	out = slices.AppendSeq(out, maps.Values(p.earlierBytes))
	p.mu.Unlock()
	if !p.HasLimits() {
		return out
	}
	for _, u := range p.Snapshot().All {
		if usage := u.Usage(); usage != nil {
			if used, ok := usage.SavedUsage(u.id, now); ok {
				out = append(out, used)
			}
		}
	}
	return out
}

// RestoreUsed adds the bytes that proxies have transmitted today in an earlier process. A proxy that is not in the pool
// yet gets its bytes when it is added. RestoreUsed ignores the bytes of pairs of a proxy and a host.
func (p *Pool) RestoreUsed(used []limit.SavedUsage, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range used {
		switch u := p.Snapshot().Get(s.Proxy); {
		case s.Host != "" || s.Bytes <= 0:
		case u != nil && u.Usage() != nil:
			u.Usage().Restore(s, now)
		default:
			p.earlierBytes[s.Proxy] = s
		}
	}
}

// SetLimitShare adds the attempt's reservation of limits to the lease. The reservation ends with the attempt.
func (l *Lease) SetLimitShare(h limit.Reservation) { l.limitShare = &h }

// Meters returns the meters that count the attempt: the meters of the proxy, of its vendor, of the pair of proxy and
// host, and of the user. The parameter user may be nil.
func (l *Lease) Meters(user *traffic.Meter) traffic.Meters {
	m := l.Proxy.meters()
	m.AddMeter(l.limitShare.Meter())
	m.AddMeter(user)
	return m
}

// Meter returns the meter of the proxy. The first call creates the meter, because many proxies of a long list need
// none.
func (u *Upstream) Meter() *traffic.Meter {
	if m := u.meter.Load(); m != nil {
		return m
	}
	u.meter.CompareAndSwap(nil, &traffic.Meter{})
	return u.meter.Load()
}

// Total returns the content of the meter of the proxy.
func (u *Upstream) Total() traffic.Total {
	if m := u.meter.Load(); m != nil {
		return m.Total()
	}
	return traffic.Total{}
}
