package upstream

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// at makes an attempt at a target through a proxy. The attempt takes a millisecond.
func (r *rig) at(u *Upstream, target string, ok bool) {
	lease, admitted := u.Acquire(r.now)
	require.True(r.t, admitted)
	r.settleAt(lease, target, ok)
	r.now = r.now.Add(time.Millisecond)
}

func (r *rig) settleAt(lease Lease, target string, ok bool) {
	lease.Target = Target(target)
	o := core.Outcome{Verdict: core.Failure, Charge: core.ChargeProxyOrTarget, Latency: time.Millisecond}
	if ok {
		o.Verdict = core.Success
	}
	lease.Settle(&o)
	lease.Release()
}

func (r *rig) avoided(u *Upstream, target string) bool { return r.avoidedUntil(u, target) > 0 }

// One target refuses a proxy and serves the others. After two failures and successes elsewhere, the proxy is avoided
// there, and the two failures leave its statistics, without a third one.
func TestARefusedProxyKeepsItsStatistics(t *testing.T) {
	const blocked = "blocked.test:80"
	for name, x := range map[string]struct {
		elsewhere []bool // results of the proxy at other targets, after each failure
		after     bool   // the results follow both failures, not each of them
		literal   bool
		want      bool
	}{
		"served between":             {elsewhere: []bool{true, true}, want: true},
		"served afterwards":          {elsewhere: []bool{true, true, true}, after: true, want: true},
		"dead":                       {elsewhere: []bool{false}},
		"seldom served":              {elsewhere: []bool{true}},
		"fails elsewhere, sometimes": {elsewhere: []bool{true, false, true}},
		"literal":                    {elsewhere: []bool{true, true}, literal: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 2)
			r.SetLiteral(x.literal)
			bad, good := r.get(0), r.get(1)
			results := func() {
				for i, ok := range x.elsewhere {
					target := []string{"a.test:80", "b.test:80"}[i%2]
					r.at(bad, target, ok)
					r.at(good, target, true)
				}
			}
			r.at(good, "a.test:80", true)
			for range 2 {
				r.at(bad, blocked, false)
				for range 20 {
					r.at(good, blocked, true)
				}
				if !x.after {
					results()
				}
			}
			r.pass(200 * time.Millisecond)
			if x.after {
				require.False(t, r.avoided(bad, blocked), "the proxy may be dead")
				results()
				r.pass(200 * time.Millisecond)
			}
			require.Equal(t, x.want, r.avoided(bad, blocked))
			require.Equal(t, x.want, bad.Stats().SuccessRate == 1, "%+v", bad.Stats())
			require.False(t, r.avoided(bad, "blocked.test:443"))
			require.False(t, r.avoided(good, blocked))
			if x.want {
				r.at(bad, blocked, false)
				require.InDelta(t, 1, bad.Stats().SuccessRate, 0, "further failures do not count")
				r.at(bad, blocked, true)
				require.False(t, r.avoided(bad, blocked), "the target serves the proxy again")
				r.at(good, blocked, true)
				for range 6 { // failures after which the target has served the proxy are noise
					r.at(bad, blocked, false)
					r.at(good, blocked, true)
					r.at(bad, "a.test:80", true)
				}
				r.pass(200 * time.Millisecond)
				require.True(t, r.avoided(bad, blocked))
				bad.Reset()
				require.False(t, r.avoided(bad, blocked), "a reset forgets it")
			}
		})
	}
}

// A reset forgets all evidence: a breaker opens only if enough attempts that began since its last reset have failed.
func TestAResetRemovesAllEvidence(outer *testing.T) {
	rapid.Check(outer, func(t *rapid.T) {
		r := newRig(outer, 3)
		r.SetLiteral(rapid.Bool().Draw(t, "literal"))
		threshold := breaker.Default().FailureThreshold
		failures := make([]int, 3) // of each proxy, since its last reset
		type flight struct {
			lease Lease
			proxy int
			reset int // resets before it began
		}
		var inFlight []flight
		resets := make([]int, 3)
		targets := rapid.SampledFrom([]string{"a.test:80", "b.test:80", "c.test:80"})
		proxies := rapid.IntRange(0, 2)
		settle := func(f flight, ok bool) {
			if !ok && f.reset == resets[f.proxy] {
				failures[f.proxy]++
			}
			r.settleAt(f.lease, targets.Draw(t, "target"), ok)
		}
		begin := func(i int) (flight, bool) {
			lease, ok := r.get(i).Acquire(r.now)
			return flight{lease, i, resets[i]}, ok
		}
		t.Repeat(map[string]func(*rapid.T){
			"fail": func(t *rapid.T) {
				if f, ok := begin(proxies.Draw(t, "proxy")); ok {
					settle(f, false)
				}
			},
			"fail often": func(t *rapid.T) {
				i := proxies.Draw(t, "proxy")
				for range 4 {
					if f, ok := begin(i); ok {
						settle(f, false)
					}
				}
			},
			"serve": func(t *rapid.T) {
				if f, ok := begin(proxies.Draw(t, "proxy")); ok {
					settle(f, true)
				}
			},
			"begin": func(t *rapid.T) {
				if f, ok := begin(proxies.Draw(t, "proxy")); ok {
					inFlight = append(inFlight, f)
				}
			},
			"end": func(t *rapid.T) {
				if len(inFlight) > 0 {
					settle(inFlight[0], rapid.Bool().Draw(t, "ok"))
					inFlight = inFlight[1:]
				}
			},
			"wait": func(t *rapid.T) { r.pass(rapid.SampledFrom([]time.Duration{1e6, 1e9, 7e10}).Draw(t, "time")) },
			"reset": func(t *rapid.T) {
				i := proxies.Draw(t, "proxy")
				r.get(i).Reset()
				failures[i] = 0
				resets[i]++
				require.Zero(t, r.get(i).EvidenceReport().Failures)
				require.Zero(t, r.get(i).EvidenceReport().Evidence)
				for _, p := range r.Avoided().All(r.Elapsed(r.now)) {
					require.NotEqual(t, r.get(i).ID(), p.ProxyID)
				}
			},
			"": func(t *rapid.T) {
				for i := range 3 {
					u := r.get(i)
					require.LessOrEqual(t, u.EvidenceReport().Failures, failures[i])
					if u.Breaker().State() != core.Closed {
						require.GreaterOrEqual(t, failures[i], threshold)
					}
				}
			},
		})
	})
}

// If only one proxy was used for a target, and has failed there twice, the next attempt goes through another proxy. Any
// attempt at the target ends this.
func TestUncompared(t *testing.T) {
	const target = "target.test:80"
	for name, x := range map[string]struct {
		proxies int
		others  bool // the other proxy is used for the target, too
		ok      bool // the result of the next attempt, through the other proxy
		want    bool
	}{
		"then served":      {proxies: 2, ok: true, want: true},
		"then failed":      {proxies: 2, want: true},
		"compared already": {proxies: 2, others: true},
		"a pool of one":    {proxies: 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, x.proxies)
			r.SetLiteral(false)
			u, other := r.get(0), r.get(x.proxies-1)
			uncompared := func() bool {
				_, is := r.Uncompared().BansOf(Target(target).Hash).EndOf(u.Hash(), r.Elapsed(r.now))
				return is
			}
			if x.others {
				r.at(other, target, false)
			}
			r.at(u, target, false)
			require.False(t, uncompared())
			r.at(u, target, false)
			require.Equal(t, x.want, uncompared())
			if x.want {
				r.at(u, "other.test:80", false)
				require.True(t, uncompared())
				r.at(other, target, x.ok)
				require.False(t, uncompared())
				r.at(u, target, false)
				require.False(t, uncompared())
			}
		})
	}
}

// refuse makes a target refuse bad and serve good, as it does other targets. The result is the end of the time for
// which bad is avoided for the target; 0 if bad is not avoided.
func (r *rig) refuse(bad, good *Upstream, target string) time.Duration {
	r.at(bad, target, false)
	for range 20 {
		r.at(good, target, true)
	}
	r.at(bad, "a.test:80", true)
	r.pass(200 * time.Millisecond)
	return r.avoidedUntil(bad, target)
}

func (r *rig) avoidedUntil(u *Upstream, target string) time.Duration {
	until, _ := r.Avoided().BansOf(Target(target).Hash).EndOf(u.Hash(), r.Elapsed(r.now))
	return until
}

// newEvidenceRig returns a rig of two proxies that have served two targets.
func newEvidenceRig(t *testing.T) (r *rig, first, second *Upstream) {
	r = newRig(t, 2)
	r.SetLiteral(false)
	first, second = r.get(0), r.get(1)
	for range 20 {
		r.at(first, "a.test:80", true)
		r.at(second, "b.test:80", true)
	}
	return r, first, second
}

// The sweep reports a ban once for each confirmed failure, although it evaluates the proxy's other failures ten times a
// second. Otherwise the ban would last for longer than avoidTime.
func TestASweepDoesNotProlongABan(t *testing.T) {
	const blocked = "blocked.test:80"
	r, bad, good := newEvidenceRig(t)
	require.Zero(t, r.refuse(bad, good, blocked))
	until := r.refuse(bad, good, blocked)
	require.NotZero(t, until)
	r.at(bad, "single.test:80", false) // no other proxy tries this target, so the failure stays pending
	r.at(bad, "a.test:80", true)
	r.pass(10 * time.Second)
	require.Equal(t, until, r.avoidedUntil(bad, blocked))
	require.Greater(t, r.refuse(bad, good, blocked), until, "another failure")
}

func TestLiteralForgetsAvoidedProxies(t *testing.T) {
	const blocked, single = "blocked.test:80", "single.test:80"
	r, bad, good := newEvidenceRig(t)
	r.refuse(bad, good, blocked)
	r.refuse(bad, good, blocked)
	r.at(good, single, false)
	r.at(good, single, false)
	pairs := func() []int {
		now := r.Elapsed(r.now)
		return []int{r.Avoided().Count(now), r.Uncompared().Count(now)}
	}
	require.Equal(t, []int{1, 1}, pairs())
	r.SetLiteral(false)
	require.Equal(t, []int{1, 1}, pairs(), "a reload without a change")
	r.SetLiteral(true)
	require.Equal(t, []int{0, 0}, pairs())
	r.pass(time.Second)
	require.Equal(t, []int{0, 0}, pairs())
}
