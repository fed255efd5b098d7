package upstream

import (
	"net/netip"
	"slices"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Region returns the proxy's region: the configured region or, without one, the region of its exit address (SetLocate).
// It returns "" if neither is known.
func (u *Upstream) Region() string { return *u.region.Load() }

// SetLocate sets the function locate, which returns the region of an exit address, or "" if the region is unknown. A
// proxy without a configured region gets the region of its exit address. If locate is nil, such a proxy has no region.
func (p *Pool) SetLocate(locate func(netip.Addr) string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.locate = locate
	p.hasLocate.Store(locate != nil)
	for _, u := range p.Snapshot().All {
		u.updateRegion()
	}
	p.updateRegionGroups()
}

// updateRegion sets the proxy's region. If the region has changed, the next Sweep publishes a snapshot with new groups
// of regions. The caller holds the pool's mu.
func (u *Upstream) updateRegion() {
	region := &u.Spec().Region
	if check := u.LastCheck(); *region == "" && u.pool.locate != nil && check != nil && check.Exit.IsValid() {
		located := u.pool.locate(check.Exit)
		region = &located
	}
	hash := core.RegionHash(*region)
	if hash != u.RegionHash() {
		u.pool.regionsChanged.Store(true)
	}
	u.region.Store(region)
	store(&u.regionHash, hash)
}

// exitChanged updates the proxy's region after a health check has found another exit address.
func (u *Upstream) exitChanged() {
	if u.pool.hasLocate.Load() {
		u.pool.mu.Lock()
		defer u.pool.mu.Unlock()
		u.updateRegion()
	}
}

// updateRegionGroups publishes a new snapshot if the region of a proxy has changed, because a snapshot groups the
// proxies by region. The caller holds mu.
func (p *Pool) updateRegionGroups() {
	if !p.regionsChanged.Swap(false) {
		return
	}
	old := p.Snapshot()
	p.setSnapshot(&Snapshot{Group: &Group{All: slices.Clone(old.All)}})
}
