// Package hash computes the 53-bit hashes of the records of sdk/abi. A plugin needs the package to compare a host or
// an id from its configuration with HostHash or IDHash. The hashes are whole numbers below 2^53, so a float64 holds
// them exactly.
package hash

// Of returns the hash of s: FNV-1a 64 followed by the finalizer of MurmurHash3, shifted right by 11 bits. The fields
// IDHash, HostHash and RegionHash have such hashes. Host names are hashed in lower case and without a port, names of
// regions in lower case.
func Of(s string) float64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(s); i++ {
		h ^= uint64(s[i])
		h *= 1099511628211
	}
	return mix(h)
}

// Pair combines two hashes into one. AffinityHash is the Pair of a proxy's IDHash and a HostHash.
func Pair(a, b float64) float64 {
	return mix(uint64(a)*0x9e3779b97f4a7c15 + uint64(b))
}

func mix(h uint64) float64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	h ^= h >> 33
	return float64(h >> 11)
}
