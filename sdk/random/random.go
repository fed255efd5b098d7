// Package random generates random numbers from the Seed of a request. A plugin has no other source of
// randomness. The same seed always gives the same numbers.
package random

import "math"

// Source is a random number generator: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom
// number generators", OOPSLA 2014).
type Source uint64

// From returns a generator. Pass the Seed of the call and, if each candidate needs different numbers, also
// the candidate's IDHash.
func From(seeds ...float64) Source {
	s := Source(0)
	for _, f := range seeds {
		s = Source(s.Uint64() ^ math.Float64bits(f))
	}
	return s
}

// Uint64 returns 64 random bits.
func (s *Source) Uint64() uint64 {
	*s += 0x9e3779b97f4a7c15
	z := uint64(*s)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// Float64 returns a random number of at least 0 and below 1.
func (s *Source) Float64() float64 { return float64(s.Uint64()>>11) / (1 << 53) }

// Intn returns a random whole number from 0 to n-1. n is at least 1.
func (s *Source) Intn(n int) int { return min(int(s.Float64()*float64(n)), n-1) }

// Normals returns two independent random numbers with the standard normal distribution. It uses Marsaglia's
// polar method.
func (s *Source) Normals() (x, y float64) {
	for {
		x, y = 2*s.Float64()-1, 2*s.Float64()-1
		if r := x*x + y*y; r > 0 && r < 1 {
			f := math.Sqrt(-2 * math.Log(r) / r)
			return x * f, y * f
		}
	}
}
