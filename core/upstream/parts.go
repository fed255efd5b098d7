package upstream

import (
	"math"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/limit"
	"github.com/whirlpool-proxy/whirlpool/core/parts"
)

// updateInFlightLimit sets inFlightLimit: 0 for a draining proxy, the result of the method maxInFlight for a proxy with
// max_in_flight, and no limit for any other proxy. The caller holds the pool's limitMu.
func (u *Upstream) updateInFlightLimit() {
	switch {
	case u.Draining():
		u.inFlightLimit.Store(0)
	case u.Spec().Extra().MaxInFlight > 0:
		u.pool.hasPlaces.Store(true)
		u.inFlightLimit.Store(int32(u.maxInFlight()))
	default:
		u.inFlightLimit.Store(math.MaxInt32)
	}
}

// configuredMaxInFlight returns max_in_flight of the proxy's configuration.
func (u *Upstream) configuredMaxInFlight() int64 {
	return int64(min(u.Spec().Extra().MaxInFlight, math.MaxInt32))
}

// maxInFlight returns the number of attempts that this gateway may have in flight at the proxy: max_in_flight or, if
// the nodes of a cluster share their limits, the gateway's part of max_in_flight. The caller holds the pool's limitMu.
func (u *Upstream) maxInFlight() int64 {
	switch {
	case u.pool.divisor == 0:
		return u.configuredMaxInFlight()
	case u.part == nil:
		return parts.First(u.configuredMaxInFlight(), u.pool.divisor)
	}
	return u.part.Most(u.configuredMaxInFlight(), u.pool.divisor)
}

// ownPlaces reports whether the limit of the given kind is max_in_flight of the proxy's configuration. All other limits
// belong to the proxy's Usage.
func (u *Upstream) ownPlaces(k limit.Kind) bool {
	return k == limit.InFlight && u.Spec().Extra().MaxInFlight > 0
}

// SetShare makes the limits of all proxies limits that the nodes of a cluster share. This includes the limits of
// proxies that are added later. Until the gateway gets its part of a shared limit, it may use the limit divided by
// divisor (parts.First).
func (p *Pool) SetShare(divisor int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limitMu.Lock()
	defer p.limitMu.Unlock()
	p.divisor = divisor
	for _, u := range p.Snapshot().All {
		u.updateInFlightLimit()
		if usage := u.Usage(); usage != nil {
			usage.SetShare(divisor, p.now())
		}
	}
}

// MayHaveLimits reports whether a proxy of the pool may have a limit, including max_in_flight.
func (p *Pool) MayHaveLimits() bool { return p.HasLimits() || p.hasPlaces.Load() }

// UsedAfter reports whether an attempt is in flight, or has begun at the given time (Pool.Elapsed) or later.
func (u *Upstream) UsedAfter(at time.Duration) bool {
	last := u.lastAcquire.Load()
	return last > 0 && last >= int64(at) || u.inFlight.Load() > 0
}

// PartUse returns the gateway's use of a limit of the proxy that is shared with other nodes of a cluster.
func (u *Upstream) PartUse(k limit.Kind) parts.Use {
	if u.ownPlaces(k) {
		u.pool.limitMu.Lock()
		defer u.pool.limitMu.Unlock()
		return parts.Use{Kind: parts.InFlight, Limit: u.configuredMaxInFlight(), Used: u.inFlight.Load(),
			Part: u.maxInFlight(), Count: int64(u.uses.Load())}
	}
	if usage := u.Usage(); usage != nil {
		return usage.PartUse(k, u.now())
	}
	return parts.Use{}
}

// SetPart sets the gateway's part of a shared limit of the proxy (see parts.Limit.SetPart).
func (u *Upstream) SetPart(k limit.Kind, part, total, base int64) int64 {
	if u.ownPlaces(k) {
		u.setPart(new(parts.Held(part, total, 0, 0)))
		return max(part, u.inFlight.Load()) // takePlace takes no place beyond the new limit
	}
	if usage := u.Usage(); usage != nil {
		return usage.SetPart(k, part, total, base, u.now())
	}
	return part
}

func (u *Upstream) setPart(p *parts.Part) {
	u.pool.limitMu.Lock()
	defer u.pool.limitMu.Unlock()
	u.part = p
	u.updateInFlightLimit()
}

// ReleasePart gives up the gateway's part of a shared limit of the proxy (see parts.Limit.Release).
func (u *Upstream) ReleasePart(k limit.Kind, part, total, base int64) {
	if k == limit.InFlight {
		u.setPart(nil)
	}
	if usage := u.Usage(); usage != nil {
		usage.Release(k, part, total, base, u.now())
	}
}

// HasPart reports whether this gateway has a part of a shared limit of the proxy.
func (u *Upstream) HasPart(k limit.Kind) bool {
	if u.ownPlaces(k) {
		u.pool.limitMu.Lock()
		defer u.pool.limitMu.Unlock()
		return u.part != nil
	}
	usage := u.Usage()
	return usage != nil && usage.HasPart(k, u.now())
}
