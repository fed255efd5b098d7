package evidence

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// poolRig records attempts of eight proxies at four targets that have served before.
type poolRig struct {
	ledger *Ledger
	books  [8]Book
	now    time.Duration
}

func newPoolRig() *poolRig {
	r := &poolRig{ledger: NewLedger(Config{})}
	for i := range 80 {
		r.attempt(i%8, i%4, true)
	}
	return r
}

func (r *poolRig) attempt(proxy, target int, served bool) {
	r.now += 10 * time.Millisecond
	a := &Attempt{Proxy: uint64(proxy), Book: &r.books[proxy], Target: Target{Hash: hashOf(target), Name: "t"},
		Ended: r.now, Threshold: 5, Window: time.Minute, ClosedPeers: 7, PoolSize: 8}
	if served {
		r.ledger.RecordSuccess(a)
	} else {
		r.ledger.RecordFailure(a)
	}
}

// hashOf returns the hash of a target.
func hashOf(target int) uint64 { return uint64(target+1) * 0x9e3779b97f4a7c15 }

func (r *poolRig) failing() FailingProxies { return r.ledger.FailingProxies(r.now) }

func TestFailingProxies(t *testing.T) {
	r := newPoolRig()
	require.True(t, r.failing().Empty())
	for i := range 3 {
		require.True(t, r.failing().Empty(), i)
		r.attempt(i%3, i%2, false)
	}
	f := r.failing()
	require.True(t, f.Failed(0) && f.Failed(1) && f.Failed(2))
	require.False(t, f.Failed(3))
	r.attempt(1, 0, true)
	f = r.failing()
	require.True(t, f.Failed(1) && f.Serves(1))
	require.False(t, f.Serves(0))
	r.attempt(1, 0, false)
	require.False(t, r.failing().Serves(1))

	for range 40 {
		r.attempt(3, 0, true)
	}
	require.True(t, r.failing().Empty(), "the failures have ended")
	r.attempt(0, 1, false)
	require.True(t, r.failing().Empty())
}

func TestFailingProxiesAreForgotten(t *testing.T) {
	r := newPoolRig()
	for i := range 6 {
		r.attempt(i%3, i%2, false)
	}
	require.False(t, r.failing().Empty())
	r.now += poolResetTime + time.Millisecond
	require.True(t, r.failing().Empty())
	r.attempt(0, 0, false)
	require.True(t, r.failing().Empty(), "the test begins anew")
}

// Failures at one target, or at unknown targets, show nothing about the pool.
func TestOneTargetIsNotThePool(t *testing.T) {
	r := newPoolRig()
	for i := range 50 {
		r.attempt(i%8, 0, false)
		require.True(t, r.failing().Empty())
	}
	r = newPoolRig()
	for i := range 200 {
		r.attempt(i%8, 10+i, false)
		require.True(t, r.failing().Empty(), "the names do not exist")
	}
}

// While a dead target has half of the requests, the others are served.
func TestADeadTargetIsNotThePool(t *testing.T) {
	r, rng := newPoolRig(), rand.New(rand.NewPCG(1, 2))
	wrong := 0
	for i := range 20_000 {
		target := rng.IntN(2) * (1 + rng.IntN(3))
		r.attempt(rng.IntN(8), target, target != 0 && rng.Float64() > 0.01)
		if i > 10 && !r.failing().Empty() {
			wrong++
		}
	}
	require.Less(t, wrong, 20)
}

// Noise hardly ever looks like a failure of the pool.
func TestNoiseIsNotThePool(t *testing.T) {
	for _, noise := range []float64{0.01, 0.05, 0.2, 0.5} {
		r, rng, began := newPoolRig(), rand.New(rand.NewPCG(1, 2)), 0
		was := false
		for i := range 40_000 {
			r.attempt(rng.IntN(8), rng.IntN(4), rng.Float64() > noise)
			is := !r.failing().Empty()
			if is && !was && i > 1000 { // the noise is known by then
				began++
			}
			was = is
		}
		t.Logf("noise %g: %d", noise, began)
		require.LessOrEqual(t, began, 5, noise)
	}
}
