// Package stats computes the statistics of the criteria: shares, quantiles, ratios, and how much of a gap a gateway
// closes (Gap). Each of them has a confidence interval of 95 %.
package stats

import (
	"math"
	"math/rand/v2"
	"slices"
)

// z is the 97.5th percentile of the standard normal distribution.
const z = 1.959963984540054

// Interval is an estimate with its 95 % confidence interval.
type Interval struct {
	Value float64 `json:"value"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// Wilson returns the share of successes, k of n trials, and its score interval by Wilson, "Probable Inference, the Law
// of Succession, and Statistical Inference" (1927). Without trials the interval is 0 to 1, and the value is NaN.
func Wilson(k, n int) Interval {
	if n == 0 {
		return Interval{math.NaN(), 0, 1}
	}
	trials := float64(n)
	p := float64(k) / trials
	center := (p + z*z/(2*trials)) / (1 + z*z/trials)
	half := z / (1 + z*z/trials) * math.Sqrt(p*(1-p)/trials+z*z/(4*trials*trials))
	return Interval{p, max(center-half, 0), min(center+half, 1)}
}

// Quantile returns the q-th quantile (0 to 1) of a sample and its distribution-free
// interval: the order statistics whose ranks enclose the quantile, by the normal
// approximation of the binomial distribution. It sorts the sample. The quantile of an empty
// sample is NaN.
func Quantile(sample []float64, q float64) Interval {
	n := len(sample)
	if n == 0 {
		return Interval{math.NaN(), math.NaN(), math.NaN()}
	}
	slices.Sort(sample)
	at := func(rank float64) float64 { return sample[min(max(int(rank), 1), n)-1] }
	mean, half := q*float64(n), z*math.Sqrt(float64(n)*q*(1-q))
	return Interval{at(math.Ceil(mean)), at(math.Floor(mean - half)), at(math.Ceil(mean+half) + 1)}
}

// Median returns the median of a sample. It sorts the sample. If the number of values is even, the median is
// the lower one of the two middle values.
func Median(sample []float64) float64 { return Quantile(sample, 0.5).Value }

// resamples is the number of resamples of a bootstrap.
const resamples = 1000

// Gap compares three runs of the same requests. The elements of base, ours and best report which requests each run
// served. Gap returns how much of the gap between base and best the run ours closes: (ours - base) / (best - base), in
// numbers of served requests. The interval is the percentile bootstrap over requests (Efron 1979). If base and best
// served equal numbers, the value is 1 if ours served at least as many, and NaN otherwise.
func Gap(base, ours, best []bool, seed uint64) Interval {
	var count [8]float64 // numbers of requests; the three bits of the index stand for the runs that served them
	for i := range base {
		count[servedBits(base[i], ours[i], best[i])]++
	}
	value := gapShare(count)
	rng := rand.New(rand.NewPCG(seed, 0x6761702e))
	values := make([]float64, 0, resamples)
	for range resamples {
		if v := gapShare(multinomial(rng, count, len(base))); !math.IsNaN(v) {
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return Interval{value, value, value}
	}
	slices.Sort(values)
	last := float64(len(values) - 1)
	return Interval{value, values[int(0.025*last)], values[int(math.Ceil(0.975*last))]}
}

func servedBits(base, ours, best bool) int {
	n := 0
	for bit, served := range []bool{base, ours, best} {
		if served {
			n |= 1 << bit
		}
	}
	return n
}

func gapShare(count [8]float64) float64 {
	var base, ours, best float64
	for i, n := range count {
		if i&1 != 0 {
			base += n
		}
		if i&2 != 0 {
			ours += n
		}
		if i&4 != 0 {
			best += n
		}
	}
	if best == base {
		if ours >= best {
			return 1
		}
		return math.NaN()
	}
	return (ours - base) / (best - base)
}

// multinomial draws n requests at random, with replacement, from n requests of eight kinds. Both count and the result
// are numbers of requests by kind.
func multinomial(rng *rand.Rand, count [8]float64, n int) (sample [8]float64) {
	remaining, mass := float64(n), float64(n)
	for i, c := range count {
		if remaining == 0 || mass <= 0 {
			break
		}
		k := binomial(rng, remaining, min(c/mass, 1))
		sample[i] = k
		remaining -= k
		mass -= c
	}
	return sample
}

// binomial draws the number of successes in n trials with probability p. It is exact for rare successes, and
// otherwise uses the normal approximation.
func binomial(rng *rand.Rand, n, p float64) float64 {
	if p > 0.5 {
		return n - binomial(rng, n, 1-p)
	}
	if n*p > 50 {
		return min(max(math.Round(n*p+math.Sqrt(n*p*(1-p))*rng.NormFloat64()), 0), n)
	}
	if p <= 0 {
		return 0
	}
	// The gaps between successes are geometric (Devroye 1986, section X.4.3).
	k, at := 0.0, 0.0
	for {
		at += math.Floor(math.Log(1-rng.Float64())/math.Log1p(-p)) + 1
		if at > n {
			return k
		}
		k++
	}
}

// Ratio returns the ratio a : b of two counts of rare events. Its interval uses the normal approximation of the
// logarithm. The value is NaN if b is 0.
func Ratio(a, b int) Interval {
	if b == 0 {
		return Interval{math.NaN(), math.NaN(), math.NaN()}
	}
	value := float64(a) / float64(b)
	half := z * math.Sqrt(1/max(float64(a), 0.5)+1/float64(b))
	return Interval{value, value * math.Exp(-half), max(value, 0.5/float64(b)) * math.Exp(half)}
}
