package upstream

import (
	"math"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/limit"
	"github.com/whirlpool-proxy/whirlpool/core/share"
)

// updateInFlightLimit sets the field inFlightLimit. A draining proxy gets the limit 0, a proxy with max_in_flight the
// result of the method maxInFlight, and any other proxy no limit. The caller holds the pool's limitMu.
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
// the nodes of a cluster share their limits, the gateway's share of max_in_flight. The caller holds the pool's limitMu.
func (u *Upstream) maxInFlight() int64 {
	switch {
	case u.pool.divisor == 0:
		return u.configuredMaxInFlight()
	case u.share == nil:
		return share.Initial(u.configuredMaxInFlight(), u.pool.divisor)
	}
	return u.share.Allowance(u.configuredMaxInFlight(), u.pool.divisor)
}

// isConfiguredLimit reports whether the limit of the given kind is max_in_flight of the proxy's configuration. All
// other limits belong to the proxy's Usage.
func (u *Upstream) isConfiguredLimit(k limit.Kind) bool {
	return k == limit.InFlight && u.Spec().Extra().MaxInFlight > 0
}

// SetDivisor makes the nodes of a cluster share the limits of all proxies, including proxies that are added later.
// Until the gateway gets its share of a limit, it may use the limit divided by the divisor (share.Initial).
func (p *Pool) SetDivisor(divisor int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limitMu.Lock()
	defer p.limitMu.Unlock()
	p.divisor = divisor
	for _, u := range p.Snapshot().All {
		u.updateInFlightLimit()
		if usage := u.Usage(); usage != nil {
			usage.SetDivisor(divisor, p.now())
		}
	}
}

// SetStoreTime makes the days of limits follow the clock of a cluster's store (share.DayClock.Set).
func (p *Pool) SetStoreTime(local, store time.Time) { p.days.Set(local, store) }

// MayHaveLimits reports whether a proxy of the pool may have a limit, including max_in_flight.
func (p *Pool) MayHaveLimits() bool { return p.HasLimits() || p.hasPlaces.Load() }

// UsedAfter reports whether an attempt is in flight, or has begun at the given time (Pool.Elapsed) or later.
func (u *Upstream) UsedAfter(at time.Duration) bool {
	last := u.lastAcquire.Load()
	return last > 0 && last >= int64(at) || u.inFlight.Load() > 0
}

// ShareUse returns the gateway's use of a limit of the proxy that is shared with other nodes of a cluster.
func (u *Upstream) ShareUse(k limit.Kind) share.Use {
	if u.isConfiguredLimit(k) {
		u.pool.limitMu.Lock()
		defer u.pool.limitMu.Unlock()
		return share.Use{Kind: share.InFlight, Limit: u.configuredMaxInFlight(), Used: u.inFlight.Load(),
			Share: u.maxInFlight(), Count: int64(u.uses.Load())}
	}
	if usage := u.Usage(); usage != nil {
		return usage.ShareUse(k, u.now())
	}
	return share.Use{}
}

// SetShare sets the gateway's share of a shared limit of the proxy (see share.Limit.SetShare).
func (u *Upstream) SetShare(k limit.Kind, size, total, usedAtTotal int64) int64 {
	if u.isConfiguredLimit(k) {
		u.setShare(new(share.NewShare(size, total, 0, 0)))
		return max(size, u.inFlight.Load()) // takePlace takes no place beyond the new limit
	}
	if usage := u.Usage(); usage != nil {
		return usage.SetShare(k, size, total, usedAtTotal, u.now())
	}
	return size
}

func (u *Upstream) setShare(p *share.Share) {
	u.pool.limitMu.Lock()
	defer u.pool.limitMu.Unlock()
	u.share = p
	u.updateInFlightLimit()
}

// ReleaseShare gives up the gateway's share of a shared limit of the proxy (see share.Limit.ReleaseShare).
func (u *Upstream) ReleaseShare(k limit.Kind, size, total, usedAtTotal int64) {
	if k == limit.InFlight {
		u.setShare(nil)
	}
	if usage := u.Usage(); usage != nil {
		usage.ReleaseShare(k, size, total, usedAtTotal, u.now())
	}
}

// HasShare reports whether this gateway has a share of a shared limit of the proxy.
func (u *Upstream) HasShare(k limit.Kind) bool {
	if u.isConfiguredLimit(k) {
		u.pool.limitMu.Lock()
		defer u.pool.limitMu.Unlock()
		return u.share != nil
	}
	usage := u.Usage()
	return usage != nil && usage.HasShare(k, u.now())
}
