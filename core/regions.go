package core

import "slices"

// Regions is a set of regions that a request may use. It is immutable. A nil *Regions contains all regions, and
// proxies without a region.
type Regions struct{ hashes []float64 }

// NewRegions returns the set of the named regions; nil if there are no names.
func NewRegions(names []string) *Regions {
	if len(names) == 0 {
		return nil
	}
	r := &Regions{}
	for _, name := range names {
		r.hashes = append(r.hashes, Hash53(name))
	}
	return r
}

// Has reports whether the set contains the region whose Hash53 is hash.
func (r *Regions) Has(hash float64) bool { return r == nil || slices.Contains(r.hashes, hash) }
