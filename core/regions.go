package core

import "slices"

// Regions is a set of the regions whose proxies a request may use. It is immutable. A nil *Regions permits the
// proxies of all regions, and proxies without a region.
type Regions struct{ hashes []float64 }

// NewRegions returns the set of the named regions; nil if there are no names.
func NewRegions(names []string) *Regions {
	if len(names) == 0 {
		return nil
	}
	r := &Regions{}
	for _, name := range names {
		r.hashes = append(r.hashes, RegionHash(name))
	}
	return r
}

// NoRegions returns the empty set.
func NoRegions() *Regions { return &Regions{} }

// Has reports whether the set contains the region with the given RegionHash.
func (r *Regions) Has(hash float64) bool { return r == nil || slices.Contains(r.hashes, hash) }

// RegionHash returns a hash of the name of a region; 0 for "". It is the Hash53 of the name with the letters A to Z
// in lower case. Two names are names of the same region if their hashes are equal. RegionHash does not allocate.
func RegionHash(name string) float64 {
	if name == "" {
		return 0
	}
	hash := fnvOffset
	for i := range len(name) {
		hash = fnv(hash, lowerByte(name[i]))
	}
	return mix53(hash)
}

func lowerByte(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
