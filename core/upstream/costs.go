package upstream

import (
	"cmp"
	"slices"

	"github.com/whirlpool-proxy/whirlpool/core/traffic"
)

// costMeters holds the price of a proxy and the meter of its vendor.
type costMeters struct {
	price  traffic.Price
	vendor *traffic.Meter // nil without a vendor
}

// meters returns the meters of an attempt: the meter of the proxy and the meter of its vendor.
func (u *Upstream) meters() traffic.Meters {
	b := u.costMeters.Load()
	if b == nil {
		m := traffic.Meters{}
		m.AddMeter(u.Meter())
		return m
	}
	m := traffic.NewMeters(b.price)
	m.AddMeter(u.Meter())
	m.AddMeter(b.vendor)
	return m
}

// costMetersOf returns the costMeters of a proxy; nil if the proxy has neither a vendor nor a price. The caller holds
// mu.
func (p *Pool) costMetersOf(s *Spec) *costMeters {
	e := s.Extra()
	if e.Vendor == "" && e.Price == (traffic.Price{}) {
		return nil
	}
	return &costMeters{e.Price, p.vendorMeter(e.Vendor)}
}

// maxVendors is the maximum number of vendors that have a meter. The traffic of further vendors is not summed by
// vendor.
const maxVendors = 1000

// vendorMeter returns the meter of a vendor; nil for "". The caller holds mu.
func (p *Pool) vendorMeter(name string) *traffic.Meter {
	if name == "" {
		return nil
	}
	m := p.vendors[name]
	if m == nil && len(p.vendors) < maxVendors {
		m = &traffic.Meter{}
		p.vendors[name] = m
	}
	return m
}

// Cost holds the traffic of a proxy or vendor, and its cost.
type Cost struct {
	Name string `json:"name"` // the proxy's id, or the vendor; "" for the sum of many removed proxies
	traffic.Total
}

// Costs are the costs of a pool, as a file stores them.
type Costs struct {
	Proxies []Cost `json:"proxies,omitempty"` // includes removed proxies; the entry "" is the sum of many
	Vendors []Cost `json:"vendors,omitempty"`
}

// Costs returns the costs so far of the proxies and vendors that have transmitted anything, sorted by name.
func (p *Pool) Costs() (c Costs) {
	p.mu.Lock()
	defer p.mu.Unlock()
	add := func(list []Cost, name string, total traffic.Total) []Cost {
		if total == (traffic.Total{}) {
			return list
		}
		return append(list, Cost{name, total})
	}
	for _, u := range p.Snapshot().All {
		c.Proxies = add(c.Proxies, u.id, u.Total())
	}
	for id, total := range p.absentCosts {
		c.Proxies = add(c.Proxies, id, total)
	}
	c.Proxies = add(c.Proxies, "", p.removedCosts.Total())
	for name, m := range p.vendors {
		c.Vendors = add(c.Vendors, name, m.Total())
	}
	for _, list := range [][]Cost{c.Proxies, c.Vendors} {
		slices.SortFunc(list, func(a, b Cost) int { return cmp.Compare(a.Name, b.Name) })
	}
	return c
}

// Cost returns the total cost so far of all proxies, including removed ones.
func (p *Pool) Cost() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	cost := p.removedCosts.Total().Cost
	for _, u := range p.Snapshot().All {
		cost += u.Total().Cost
	}
	for _, total := range p.absentCosts {
		cost += total.Cost
	}
	return cost
}

// RestoreCosts adds the costs of an earlier process. A proxy that is not in the pool yet gets its costs when it is
// added.
func (p *Pool) RestoreCosts(c Costs) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range c.Proxies {
		switch u := p.Snapshot().Get(s.Name); {
		case s.Name == "":
			p.removedCosts.Add(s.Total)
		case u != nil:
			u.addCosts(s.Total)
		default:
			p.absentCosts[s.Name] = s.Total
		}
	}
	for _, s := range c.Vendors {
		if m := p.vendorMeter(s.Name); m != nil {
			m.Add(s.Total)
		}
	}
}

// addCosts adds the costs of an earlier process, or of an earlier proxy with the same id. The added bytes do not count
// for bytes_per_day. The caller holds mu.
func (u *Upstream) addCosts(t traffic.Total) {
	u.Meter().Add(t)
	u.ensureAttemptFields().addedBytes += t.Bytes()
	if usage := u.Usage(); usage != nil {
		usage.ExcludeBytes(t.Bytes())
	}
}

// EachBytes calls f with the id of each proxy of the pool and the number of bytes that the proxy has transmitted in
// both directions since it was added. Unlike the bytes of Costs, this number includes no bytes of earlier processes
// or of earlier proxies with the same id. The function f must not change the pool.
func (p *Pool) EachBytes(f func(id string, bytes int64)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, u := range p.Snapshot().All {
		f(u.id, u.Total().Bytes()-u.addedBytes())
	}
}

// addedBytes returns the number of bytes that addCosts has added to the meter. The caller holds the pool's mu.
func (u *Upstream) addedBytes() int64 {
	if x := u.attemptFields.Load(); x != nil {
		return x.addedBytes
	}
	return 0
}

// maxAbsent is the maximum number of removed proxies whose costs are kept by id. The costs of further removed proxies
// are only summed.
const maxAbsent = 100_000

// keepCosts keeps the costs of a proxy that was removed or replaced by another proxy with the same id. Bytes of
// attempts that are still in flight are lost. The caller holds mu.
func (p *Pool) keepCosts(u *Upstream) {
	total, next := u.Total(), p.Snapshot().Get(u.id)
	switch {
	case total == traffic.Total{}:
	case next != nil && next != u:
		next.addCosts(total)
	case len(p.absentCosts) < maxAbsent:
		p.absentCosts[u.id] = total
	default:
		p.removedCosts.Add(total)
	}
	p.keepUsed(u, next)
}

// Vendor returns the vendor and the tier of the proxy with the given id; "" and 0 if there is no such proxy.
func (s *Snapshot) Vendor(id string) (vendor string, tier int) {
	if u := s.Get(id); u != nil {
		return u.Spec().Extra().Vendor, u.Spec().Tier
	}
	return "", 0
}

// Tier is a tier of the pool.
type Tier struct {
	Number int32
	*Group // the proxies of the tier
}

// Tiers returns the tiers of the pool, the lowest first; nil if all proxies are of one tier.
func (s *Snapshot) Tiers() []Tier { return s.tiers }

// Tier returns the proxy's tier.
func (u *Upstream) Tier() int32 { return u.tier.Load() }

// sortTiers sets the tiers. All and Mixed must be set.
func (s *Snapshot) sortTiers() {
	if !slices.ContainsFunc(s.All, func(u *Upstream) bool { return u.Tier() != s.All[0].Tier() }) {
		return
	}
	for _, u := range s.All {
		s.inTier(u.Tier(), func(g *Group) { g.All = append(g.All, u) })
	}
	for _, u := range s.Mixed {
		s.inTier(u.Tier(), func(g *Group) { g.Mixed = append(g.Mixed, u) })
	}
	slices.SortFunc(s.tiers, func(a, b Tier) int { return cmp.Compare(a.Number, b.Number) })
}

func (s *Snapshot) inTier(number int32, f func(*Group)) {
	i := slices.IndexFunc(s.tiers, func(t Tier) bool { return t.Number == number })
	if i < 0 {
		i = len(s.tiers)
		s.tiers = append(s.tiers, Tier{number, &Group{}})
	}
	f(s.tiers[i].Group)
}
