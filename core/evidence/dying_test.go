package evidence

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Half of the traffic is for a dead target, the rest for the only other one: a
// proxy that dies meanwhile is out within 10 tries, those at the dead target counted.
func TestAProxyThatDiesBesideADeadTarget(t *testing.T) {
	const proxies, threshold, dead, good = 6, 5, 1, 2
	l, at := NewLedger(Config{}), time.Second
	var books [proxies]Book
	try := func(p int, host uint64, fails bool) (f Finding) {
		at += time.Millisecond
		a := &Attempt{Proxy: uint64(p + 1), Book: &books[p], Target: Target{Hash: host}, Began: at - time.Millisecond/2,
			At:        at,
			Threshold: threshold, Window: time.Minute, Peers: proxies - 1}
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
		if i/proxies%2 == 0 { // by rounds, so that each proxy gets both
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
	t.Fatal("it is never out")
}
