package session

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
)

// Key is a hash of a session's user, id and wanted region. A Table therefore holds no names.
type Key [16]byte

// KeyOf returns the key of a session.
func KeyOf(user, id, region string) Key {
	b := make([]byte, 0, 128)
	for _, part := range [...]string{user, id, region} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
	}
	sum := sha256.Sum256(b)
	return Key(sum[:16])
}

// Score returns the score of a proxy for the session. The parameter proxy is a hash of the proxy's id. The proxy with
// the highest score serves the session. If a proxy is added or removed, the only sessions that move are those for which
// this proxy has the highest score (rendezvous hashing: Thaler, Ravishankar, "Using name-based mappings to increase hit
// rates", 1998). A proxy's share of the sessions is proportional to its weight (Schindelhauer, Schomaker, "Weighted
// distributed hash tables", 2005).
func (k Key) Score(proxy uint64, weight float64) float64 {
	h := mixBits(binary.BigEndian.Uint64(k[:8]) ^ mixBits(proxy))
	uniform := (float64(h>>11) + 0.5) / (1 << 53) // above 0 and below 1
	return -weight / math.Log(uniform)
}

// mixBits is the finalizer of splitmix64 (G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number
// generators", 2014).
func mixBits(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
