package evidence

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Half of the requests are for a dead target, the others for the only other target. The breaker of a
// proxy that dies may open within 10 of its attempts, including those at the dead target.
func TestAProxyThatDiesBesideADeadTarget(t *testing.T) {
	const proxies, threshold, dead, good = 6, 5, 1, 2
	l, at := NewLedger(Config{}), time.Second
	var books [proxies]Book
	try := func(p int, host uint64, fails bool) (f Finding) {
		at += time.Millisecond
		a := &Attempt{Proxy: uint64(p + 1), Book: &books[p], Target: Target{Hash: host}, Began: at - time.Millisecond/2,
			At:        at,
			Threshold: threshold, Window: time.Minute, Peers: proxies - 1,
		}
		if fails {
			return l.Failed(a)
		}
		l.Served(a)
		return Finding{}
	}
	turn := 0
	next := func() int { turn++; return turn % proxies }
	for i := range 128 {
		if i%2 == 1 {
			try(next(), good, false)
			continue
		}
		for range 3 { // a request and its retries
			require.False(t, try(next(), dead, true).Worse)
		}
	}
	tries := 0
	for i := range 200 {
		p, host := next(), uint64(good)
		if i/proxies%2 == 0 { // changes with each round, so that each proxy gets both targets
			host = dead
		}
		if p == 0 {
			tries++
		}
		f := try(p, host, host == dead || p == 0)
		if p != 0 {
			require.False(t, f.Worse)
			continue
		}
		if f.Worse && tries >= threshold {
			require.LessOrEqual(t, tries, 10)
			return
		}
		if host == good {
			try(3, good, false) // the retry
		}
	}
	t.Fatal("the breaker never opens")
}
