package minutes

import (
	"math/bits"
	"time"
)

// Latencies are counted in buckets, four for each power of two from 2^firstPower ns (0.5 ms) to 2^35 ns (34 s). The
// first bucket also has all shorter latencies, and the last bucket all longer ones.
const (
	firstPower = 19
	numBuckets = 64
)

// bucketOf returns the bucket of a latency.
func bucketOf(d time.Duration) int {
	if d < 1<<firstPower {
		return 0
	}
	power := bits.Len64(uint64(d)) - 1
	quarter := int(d>>(power-2)) & 3 // the two bits after the highest bit
	return min((power-firstPower)*4+quarter, numBuckets-1)
}

// latencyOf returns the middle of a bucket.
func latencyOf(bucket int) time.Duration {
	quarter := time.Duration(1) << (bucket/4 + firstPower - 2)
	return quarter*time.Duration(4+bucket%4) + quarter/2
}

// Latencies is a distribution of latencies: a number of attempts for each bucket.
type Latencies [numBuckets]float64

// add adds n attempts of which only the median and the 95th percentile are known, as the buckets p50 and p95. It
// spreads 50 % of the attempts over the buckets p50-k to p50, with k = p95-p50. It spreads 45 % over the buckets p50+1
// to p95, and 5 % over the buckets p95 to p95+k/2.
func (l *Latencies) add(n float64, p50, p95 int) {
	spread := func(part float64, from, to int) { // over buckets from+1 to to, at least over bucket to
		from = max(-1, min(from, to-1))
		for b := from + 1; b <= to; b++ {
			l[b] += n * part / float64(to-from)
		}
	}
	spread(0.50, 2*p50-p95-1, p50)
	spread(0.45, p50, p95)
	spread(0.05, p95-1, min(p95+(p95-p50)/2, numBuckets-1))
}

// Quantile returns the q-quantile of the latencies, 0 < q < 1; 0 without attempts.
func (l *Latencies) Quantile(q float64) time.Duration {
	if b := l.bucket(q); b >= 0 {
		return latencyOf(b)
	}
	return 0
}

// bucket returns the bucket of a quantile; -1 without attempts.
func (l *Latencies) bucket(q float64) int {
	total := 0.0
	for _, n := range l {
		total += n
	}
	if total == 0 {
		return -1
	}
	sum, last := 0.0, 0
	for b, n := range l {
		if n == 0 {
			continue
		}
		if sum += n; sum >= q*total-total*1e-9 {
			return b
		}
		last = b
	}
	return last
}

// merge adds the attempts of m.
func (l *Latencies) merge(m *Latencies) {
	for b, n := range m {
		l[b] += n
	}
}
