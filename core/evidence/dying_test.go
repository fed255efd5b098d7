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
			Ended:     at,
			Threshold: threshold, Window: time.Minute, ClosedPeers: proxies - 1,
		}
		if fails {
			return l.RecordFailure(a)
		}
		l.RecordSuccess(a)
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
			require.False(t, try(next(), dead, true).ShouldOpen)
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
			require.False(t, f.ShouldOpen)
			continue
		}
		if f.ShouldOpen && tries >= threshold {
			require.LessOrEqual(t, tries, 10)
			return
		}
		if host == good {
			try(3, good, false) // the retry
		}
	}
	t.Fatal("the breaker never opens")
}

// A proxy serves other targets while a target is dead. Then it dies, and all its next attempts are at one target. Its
// breaker opens within 10 of them, although a ban by this target would look the same.
func TestAProxyThatDiesAtOneTarget(t *testing.T) {
	for dead := range 4 { // attempts through the proxy at a dead target before it dies
		for served := range 4 { // successes of the proxy in between
			l, at := NewLedger(Config{}), time.Second
			var books [2]Book
			try := func(p, target int, fails bool) bool {
				at += time.Millisecond
				a := &Attempt{Proxy: uint64(p + 1), Book: &books[p], Target: site(target), Ended: at, Threshold: 5,
					Window: time.Minute, ClosedPeers: 1, PoolSize: 2}
				if fails {
					return l.RecordFailure(a).ShouldOpen
				}
				l.RecordSuccess(a)
				return false
			}
			for i := range 40 {
				try(i%2, 1+i%3, false)
			}
			for range 8 {
				try(1, 0, true)
			}
			for range dead {
				try(0, 0, true)
			}
			for i := range served {
				try(0, 2+i%2, false)
				try(1, 1+i%3, false)
			}
			tries := 1
			for ; !try(0, 1, true) || tries < 5; tries++ {
				require.Less(t, tries, 10, "%d failures before, %d successes", dead, served)
				try(1, 1, false)
			}
		}
	}
}

// Finding.Banned is set if one of several targets refuses the proxy and serves the others. It is not set if the proxy
// fails at two targets, if only one target serves the pool, if the target fails for all proxies, or by noise.
func TestBanned(t *testing.T) {
	const proxies = 4
	for name, x := range map[string]struct {
		targets int // a negative value means that after the first requests, all requests are for the first target
		fails   func(proxy, target, n int) bool
		want    bool
	}{
		"one target refuses the proxy": {3, func(p, target, _ int) bool { return p == 0 && target == 0 }, true},
		"the proxy is dead":            {3, func(p, _, _ int) bool { return p == 0 }, false},
		"it is dead, only one target":  {-3, func(p, _, _ int) bool { return p == 0 }, false},
		"served once, then dead":       {-3, func(p, _, n int) bool { return p == 0 && n != 69 }, false},
		"the only target":              {1, func(p, _, _ int) bool { return p == 0 }, false},
		"the target is dead":           {3, func(_, target, _ int) bool { return target == 0 }, false},
		"noise of 10 %":                {3, func(_, _, n int) bool { return n%10 == 7 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			l, at := NewLedger(Config{}), time.Second
			var books [proxies]Book
			banned, n := 0, 0
			for i := range 600 {
				p, target := i%proxies, i/proxies%max(x.targets, -x.targets)
				if x.targets < 0 && i >= 60 {
					target = 0
				}
				n++
				at += time.Millisecond
				a := &Attempt{Proxy: uint64(p + 1), Book: &books[p], Target: site(target),
					Began: at - time.Millisecond/2, Ended: at,
					Threshold: 5, Window: time.Minute, ClosedPeers: proxies - 1, PoolSize: proxies}
				if i < 60 || !x.fails(p, target, n) { // the pool has served at first
					l.RecordSuccess(a)
				} else if l.RecordFailure(a).Banned {
					require.Zero(t, p, "only the first proxy is refused")
					banned++
				}
			}
			require.Equal(t, x.want, banned > 0)
			if x.want {
				require.GreaterOrEqual(t, banned, 40, "of 45 failures")
			}
		})
	}
}
