package health_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ability"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/health"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// behaviour describes how a proxy responds: with a status or, if the cause is not 0, with this cause.
type behaviour struct {
	absolute, tunnel int
	absoluteCause    core.Cause
	tunnelCause      core.Cause
	takes            time.Duration
	body             string
	header           http.Header
}

var works = behaviour{absolute: 200, tunnel: 200, takes: 10 * time.Millisecond}

func fails(c core.Cause) behaviour { return behaviour{absoluteCause: c, tunnelCause: c} }

// network has the behaviour of the proxies of a test, and counts the checks.
type network struct {
	mu      sync.Mutex
	proxies map[string]behaviour // by id; a proxy without an entry works
	sent    map[string]int       // number of requests by id
	running map[*upstream.Upstream]int
	most    int  // the largest number of simultaneous requests
	overlap bool // two checks of one proxy ran at the same time
}

func (n *network) send(ctx context.Context, u *upstream.Upstream, form health.SendForm, q *health.Request,
	timeout time.Duration) health.Response {
	n.mu.Lock()
	b, ok := n.proxies[u.ID()]
	if !ok {
		b = works
	}
	n.sent[u.ID()]++
	n.running[u]++
	all := 0
	for _, running := range n.running {
		n.overlap = n.overlap || running > 1
		all += running
	}
	n.most = max(n.most, all)
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.running[u]--
	}()
	status, cause := b.absolute, b.absoluteCause
	if form == health.Tunnel {
		status, cause = b.tunnel, b.tunnelCause
	}
	select {
	case <-time.After(min(b.takes, timeout)):
	case <-ctx.Done():
	}
	if b.takes > timeout {
		cause = verdict.NoAnswerInTime
	}
	r := health.Response{Duration: b.takes, Body: []byte(b.body), Header: b.header}
	if cause != 0 {
		r.Facts.Err = &verdict.Error{Cause: cause, Err: errors.New(verdict.CauseName(cause))}
	} else {
		r.Facts.Status = status
	}
	return r
}

func (n *network) set(id string, b behaviour) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.proxies[id] = b
}

func (n *network) count(id string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sent[id]
}

// totals returns the largest number of simultaneous requests, and whether two were for one proxy.
func (n *network) totals() (most int, overlap bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.most, n.overlap
}

// busy reports whether a request is running.
func (n *network) busy() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, running := range n.running {
		if running > 0 {
			return true
		}
	}
	return false
}

// fixture is a checker in virtual time. Its proxies are p0, p1 and so on.
type fixture struct {
	t    *testing.T
	pool *upstream.Pool
	net  *network
	c    *health.Checker
	log  coretest.Log
}

func settings() health.Settings {
	s := health.DefaultSettings()
	s.URL = "http://check.test/ping?key=secret"
	return s
}

func specs(n int) []upstream.Spec {
	list := make([]upstream.Spec, n)
	for i := range list {
		list[i] = upstream.Spec{ID: fmt.Sprint("p", i), Weight: 1, Address: upstream.Address{Scheme: upstream.HTTP,
			Host: fmt.Sprintf("10.0.0.%d:1", i)}}
	}
	return list
}

func start(t *testing.T, n, parallel int, s health.Settings, proxies map[string]behaviour) *fixture {
	t.Helper()
	f := &fixture{t: t, net: &network{proxies: map[string]behaviour{}, sent: map[string]int{},
		running: map[*upstream.Upstream]int{}}}
	for id, b := range proxies {
		f.net.proxies[id] = b
	}
	f.pool = upstream.NewPool(upstream.PoolConfig{Breaker: breaker.Default(), Now: time.Now})
	require.NoError(t, f.pool.Apply(specs(n)))
	f.c = health.New(health.Config{Pool: f.pool, Send: f.net.send, Now: time.Now,
		Rand: rand.New(rand.NewPCG(1, 2)).Uint64, Log: slog.New(slog.NewTextHandler(&f.log, nil)), Parallel: parallel})
	require.Empty(t, s.Check())
	f.c.SetSettings(s)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { f.c.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		require.NotContains(t, f.log.String(), "secret")
		require.NotContains(t, f.log.String(), "ping")
	})
	return f
}

func (f *fixture) get(id string) *upstream.Upstream {
	u := f.pool.Snapshot().Get(id)
	require.NotNil(f.t, u)
	return u
}

func (f *fixture) state(id string, k ability.Kind) ability.State {
	return f.get(id).Abilities().State(k, f.pool.Elapsed(time.Now()))
}

// attempt runs one attempt of a client.
func (f *fixture) attempt(id string, cause core.Cause) {
	f.t.Helper()
	lease, ok := f.get(id).Acquire(time.Now())
	require.True(f.t, ok)
	o := core.Outcome{Cause: cause, Verdict: core.Success}
	if cause != verdict.Answered {
		o.Verdict, o.Charge = core.Failure, core.ChargeProxy
	}
	lease.Target = upstream.Target("t.example:80")
	lease.Settle(&o)
	lease.Release()
}

// open opens the breaker of a proxy.
func (f *fixture) open(id string) {
	for f.get(id).Breaker().State() == core.Closed {
		f.attempt(id, verdict.CredentialsRefused)
		time.Sleep(10 * time.Millisecond)
	}
}

func TestNewProxiesAreCheckedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, 300, 64, settings(), nil)
		time.Sleep(time.Second)
		for _, u := range f.pool.Snapshot().All {
			require.Equal(t, 2, f.net.count(u.ID()), "in both forms")
			r := u.LastCheck()
			require.True(t, r.Passed)
			require.Equal(t, 10*time.Millisecond, r.Latency)
			require.Zero(t, u.Stats().Samples+int(u.Stats().Uses), "the statistics are those of the traffic")
			lease, ok := u.Acquire(time.Now())
			require.True(t, ok)
			require.False(t, u.Preferred(f.pool.Elapsed(time.Now())),
				"one attempt in flight until a request has succeeded")
			lease.Release()
		}
		most, _ := f.net.totals()
		require.Equal(t, 64, most)
		passed, failed := f.c.Counts()
		require.EqualValues(t, 300, passed)
		require.Zero(t, failed)
		time.Sleep(65 * time.Second)
		for _, u := range f.pool.Snapshot().All {
			require.Equal(t, 4, f.net.count(u.ID()), "again after an interval")
		}
	})
}

// A test of a proxy makes a check and changes nothing. Without a URL, there is no check.
func TestATestChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuses := behaviour{absoluteCause: verdict.ProxyUnreachable, tunnelCause: verdict.ProxyUnreachable}
		f := start(t, 2, 64, settings(), map[string]behaviour{"p1": refuses})
		time.Sleep(100 * time.Millisecond)
		passed, failed := f.c.Counts()
		for id, fault := range map[string]string{"p0": "", "p1": "proxy_unreachable"} {
			u := f.get(id)
			last, failures := u.LastCheck(), u.Breaker().Snapshot().FailureCount
			r, ok, err := f.c.Test(t.Context(), u)
			require.True(t, ok)
			require.NoError(t, err)
			require.Equal(t, fault == "", r.Passed)
			require.Equal(t, fault, r.Fault)
			require.Same(t, last, u.LastCheck())
			require.Equal(t, failures, u.Breaker().Snapshot().FailureCount)
		}
		p, n := f.c.Counts()
		require.Equal(t, [2]uint64{passed, failed}, [2]uint64{p, n})
		f.c.SetSettings(health.DefaultSettings())
		_, ok, _ := f.c.Test(t.Context(), f.get("p0"))
		require.False(t, ok)
	})
}

// A test reports only the exit address that its own response has.
func TestATestReportsItsOwnExitAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen, s := works, settings()
		s.Exit, seen.body = health.ExitBody, "192.0.2.7"
		f := start(t, 1, 1, s, map[string]behaviour{"p0": seen})
		time.Sleep(time.Second)
		u := f.get("p0")
		require.Equal(t, "192.0.2.7", u.LastCheck().Exit.String())
		for _, b := range []behaviour{works, fails(verdict.ProxyUnreachable)} {
			f.net.set("p0", b)
			r, _, _ := f.c.Test(t.Context(), u)
			require.False(t, r.Exit.IsValid())
		}
		time.Sleep(2 * s.Interval)
		require.False(t, u.LastCheck().Passed)
		require.Equal(t, "192.0.2.7", u.LastCheck().Exit.String(), "a check keeps the last known one")
	})
}

// The results of the two forms of a check determine the abilities.
func TestAbilities(t *testing.T) {
	const unknown, can, cannot = ability.Unknown, ability.Can, ability.Cannot
	for name, c := range map[string]struct {
		url                 string
		b                   behaviour
		passed              bool
		forward, tls, other ability.State
	}{
		"both":      {"http://a/", works, true, can, unknown, can},
		"both, 443": {"http://a:443/", works, true, can, can, unknown},
		"CONNECT only": {"http://a/", behaviour{absolute: 405, tunnel: 200}, true,
			cannot, unknown, can},
		"CONNECT only, and silent": {"http://a/", behaviour{absoluteCause: verdict.NoAnswerInTime, tunnel: 200}, true,
			cannot, unknown, can},
		"GET only": {"http://a/", behaviour{absolute: 200, tunnelCause: verdict.TunnelRefused}, true,
			can, unknown, cannot},
		"GET only, and 405": {"http://a/", behaviour{absolute: 200, tunnelCause: verdict.TunnelUnsupported}, true,
			can, cannot, cannot},
		"GET only, and closes": {"http://a/", behaviour{absolute: 200, tunnelCause: verdict.TunnelBroke}, true,
			can, unknown, cannot},
		"another response in the tunnel": {"http://a/", behaviour{absolute: 200, tunnel: 404}, true,
			can, unknown, unknown},
		"neither": {"http://a/", behaviour{absolute: 405, tunnelCause: verdict.TunnelRefused}, false,
			unknown, unknown, cannot},
		"dead": {"http://a/", fails(verdict.ProxyUnreachable), false, unknown, unknown, unknown},
		"TLS":  {"https://a/", behaviour{tunnel: 200}, true, unknown, can, unknown},
		"TLS, refused": {"https://a/", behaviour{tunnelCause: verdict.TunnelRefused}, false, unknown, cannot,
			unknown},
		"TLS in the middle": {"https://a/", fails(verdict.TargetCertificate), false, unknown, cannot, unknown},
		"TLS in the middle, 8443": {"https://a:8443/", fails(verdict.TargetCertificate), false,
			unknown, cannot, cannot},
		"a descriptor is missing": {"http://a/", behaviour{absolute: 200, tunnelCause: verdict.LocalLimit}, true,
			can, unknown, unknown},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := settings()
				s.URL = c.url
				f := start(t, 3, 1, s, map[string]behaviour{"p1": c.b})
				time.Sleep(3 * time.Second)
				r := f.get("p1").LastCheck()
				require.Equal(t, c.passed, r.Passed)
				require.Equal(t, c.passed, r.Fault == "")
				require.Equal(t, c.b.tunnelCause == verdict.TargetCertificate, r.Intercepted)
				require.Equal(t, []ability.State{c.forward, c.tls, c.other}, []ability.State{
					f.state("p1", ability.Forward), f.state("p1", ability.TunnelTLS), f.state("p1",
						ability.TunnelOther)})
				for _, kind := range []ability.Kind{ability.Forward, ability.TunnelTLS, ability.TunnelOther} {
					if known := f.get("p1").Ability(kind); known.State != unknown {
						require.Equal(t, ability.Check, known.Source)
					}
				}
				f.net.set("p1", works)
				time.Sleep(70 * time.Second)
				require.NotEqual(t, cannot, f.state("p1", ability.Forward))
				require.NotContains(t, f.log.String(), "panic")
			})
		})
	}
}

// A single failure of one form shows nothing.
func TestASingleFailureInOneForm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, 2, 8, settings(), map[string]behaviour{"p0": {absolute: 503, tunnel: 200},
			"p1": {absolute: 200, tunnelCause: verdict.TunnelTimeout}})
		time.Sleep(200 * time.Millisecond)
		require.Equal(t, ability.Unknown, f.state("p0", ability.Forward))
		require.Equal(t, ability.Unknown, f.state("p1", ability.TunnelOther))
		f.net.set("p0", works)
		f.net.set("p1", works)
		time.Sleep(3 * time.Minute)
		require.Equal(t, ability.Can, f.state("p0", ability.Forward))
		require.Equal(t, ability.Can, f.state("p1", ability.TunnelOther))
	})
}

// If all checks fail, nothing is concluded about the proxies, because the host of the URL may have
// failed.
func TestTheTargetIsDown(t *testing.T) {
	for _, url := range []string{"http://a/", "https://a/"} {
		synctest.Test(t, func(t *testing.T) {
			s, all := settings(), map[string]behaviour{}
			s.URL = url
			for i := range 6 {
				cause := []core.Cause{verdict.TargetCertificate, verdict.TunnelRefused}[i%2]
				all[fmt.Sprint("p", i)] = behaviour{absolute: 502, tunnelCause: cause}
			}
			f := start(t, 6, 8, s, all)
			for range 60 {
				time.Sleep(10 * time.Second)
				for i := range 6 {
					f.attempt(fmt.Sprint("p", i), verdict.Answered)
				}
			}
			for _, u := range f.pool.Snapshot().All {
				require.Equal(t, core.Closed, u.Breaker().State(), url)
				require.False(t, u.LastCheck().Passed)
				require.False(t, u.LastCheck().Intercepted)
				require.False(t, u.IsUnreached(), "it has served requests")
				require.True(t, u.Abilities().CanServe(ability.NeedTunnel443, f.pool.Elapsed(time.Now())))
			}
		})
	}
}

// A new proxy whose checks fail is chosen last, and its breaker opens without a request.
func TestAProxyThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, 6, 8, settings(), map[string]behaviour{"p0": {absolute: 500, tunnelCause: verdict.TunnelFailed}})
		time.Sleep(200 * time.Millisecond)
		require.True(t, f.get("p0").IsUnreached())
		f.get("p0").SetReached(true)
		require.True(t, f.get("p0").IsUnreached(), "a connection alone does not end that")
		require.Contains(t, f.log.String(), `msg="health check failed" proxy_id=p0 error="the status is 500 instead of`)
		f.net.set("p0", works)
		time.Sleep(time.Minute)
		require.False(t, f.get("p0").IsUnreached())
		require.Contains(t, f.log.String(), `msg="health check passed" proxy_id=p0`)

		f.net.set("p0", fails(verdict.CredentialsRefused))
		time.Sleep(3 * time.Minute)
		require.Equal(t, core.Open, f.get("p0").Breaker().State())
	})
}

// If no request arrives, a check is the probe of an open breaker whose time has passed.
func TestChecksProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, 2, 8, settings(), nil)
		time.Sleep(time.Second)
		f.attempt("p0", verdict.Answered)
		f.open("p0")
		b, before := f.get("p0").Breaker(), f.net.count("p0")
		time.Sleep(29 * time.Second)
		require.Equal(t, core.Open, b.State())
		require.Equal(t, before, f.net.count("p0"), "an open breaker gets no check")
		time.Sleep(2 * time.Second)
		require.Equal(t, core.Closed, b.State())

		f.open("p0")
		f.net.set("p0", behaviour{absoluteCause: verdict.TargetCertificate, tunnelCause: verdict.TunnelRefused})
		time.Sleep(61 * time.Second)
		require.Equal(t, core.Open, b.State(), "the check failed, and it opened again")
		f.net.set("p0", works)
		time.Sleep(121 * time.Second)
		require.Equal(t, core.Closed, b.State())
	})
}

// A check that fails because no descriptor is free shows nothing about the proxy, and is repeated soon.
func TestALocalLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, 1, 8, settings(), map[string]behaviour{"p0": fails(verdict.LocalLimit)})
		time.Sleep(20 * time.Second)
		require.Nil(t, f.get("p0").LastCheck())
		require.False(t, f.get("p0").IsUnreached())
		require.InDelta(t, 20, f.net.count("p0"), 2)
		_, ok, err := f.c.Test(t.Context(), f.get("p0"))
		require.True(t, ok)
		require.ErrorContains(t, err, "local_limit")
		f.net.set("p0", works)
		time.Sleep(2 * time.Second)
		require.True(t, f.get("p0").LastCheck().Passed)
	})
}

// A proxy that serves requests is checked once in ten intervals.
func TestBusyProxies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, 2, 8, settings(), nil)
		for range 40 * 60 {
			f.attempt("p0", verdict.Answered)
			time.Sleep(time.Second)
		}
		require.InDelta(t, 2*5, f.net.count("p0"), 2)
		require.InDelta(t, 2*40, f.net.count("p1"), 6)

		f.net.set("p0", behaviour{absolute: 500, tunnel: 500})
		for range 21 * 60 {
			f.attempt("p0", verdict.Answered)
			time.Sleep(time.Second)
		}
		require.Greater(t, f.net.count("p0"), 2*15, "after a check that failed the next follow sooner")
	})
}

func TestExpectations(t *testing.T) {
	body := behaviour{absolute: 204, tunnel: 204, takes: 1, body: "192.0.2.7\n",
		header: http.Header{"X-Ok": {"yes, indeed"}, "X-Exit": {"2001:db8::1"}}}
	for name, c := range map[string]struct {
		expect      health.Expectation
		exit, fault string
		address     string
	}{
		"all":      {health.Expectation{204, "x-ok: yes", "192"}, "body", "", "192.0.2.7"},
		"nothing":  {health.Expectation{}, "x-exit", "", "2001:db8::1"},
		"presence": {health.Expectation{Header: "X-Ok"}, "X-Ok", "", "invalid IP"},
		"status":   {health.Expectation{Status: 200}, "", "the status is 204 instead of 200", "invalid IP"},
		"header": {health.Expectation{Header: "X-Ok: no"}, "", "the header field X-Ok is missing or different",
			"invalid IP"},
		"other header": {health.Expectation{Header: "X-No"}, "", "the header field X-No is missing or different",
			"invalid IP"},
		"body": {health.Expectation{Body: "193"}, "", "the body is different", "invalid IP"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := settings()
				s.Expect, s.Exit = c.expect, c.exit
				f := start(t, 1, 8, s, map[string]behaviour{"p0": body})
				time.Sleep(200 * time.Millisecond)
				r := f.get("p0").LastCheck()
				require.Equal(t, c.fault, r.Fault)
				require.Equal(t, c.fault == "", r.Passed)
				require.Equal(t, c.address, r.Exit.String())
			})
		})
	}
}

// If the settings change, all proxies are checked again. Without a URL nothing is checked, and no results are
// kept.
func TestSettingsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, 3, 8, settings(), map[string]behaviour{"p0": {absolute: 500, tunnel: 500},
			"p1": {takes: time.Hour}})
		time.Sleep(200 * time.Millisecond)
		f.c.SetSettings(health.Settings{})
		time.Sleep(200 * time.Millisecond)
		require.False(t, f.net.busy(), "the checks that run have ended")
		time.Sleep(time.Minute)
		for _, u := range f.pool.Snapshot().All {
			require.Nil(t, u.LastCheck())
			require.False(t, u.IsUnreached())
		}
		before := f.net.count("p2")
		time.Sleep(time.Hour)
		require.Equal(t, before, f.net.count("p2"))
		s := settings()
		s.Expect.Status = 201
		f.c.SetSettings(s)
		f.c.SetSettings(s)
		time.Sleep(200 * time.Millisecond)
		require.False(t, f.get("p2").LastCheck().Passed)
		require.Equal(t, before+2, f.net.count("p2"))
	})
}

func TestWrongSettings(t *testing.T) {
	for key, s := range map[string]func(*health.Settings){
		"url":           func(s *health.Settings) { s.URL = "ftp://a/secret" },
		"interval":      func(s *health.Settings) { s.Interval = 0 },
		"timeout":       func(s *health.Settings) { s.Timeout = -1 },
		"jitter":        func(s *health.Settings) { s.Jitter = 1.1 },
		"exit":          func(s *health.Settings) { s.Exit = "a b" },
		"expect.status": func(s *health.Settings) { s.Expect.Status = 42 },
		"expect.header": func(s *health.Settings) { s.Expect.Header = ":x" },
	} {
		set := settings()
		s(&set)
		wrong := set.Check()
		require.Len(t, wrong, 1)
		require.Equal(t, key, wrong[0].Key)
		require.NotContains(t, wrong[0].Error(), "secret")
	}
	set := settings()
	set.Interval, set.Timeout, set.Jitter = 0, 0, 2
	require.Len(t, set.Check(), 3)
}

func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"http://a", "https://[::1]:8443/x?y#z", "http://u:p@a/", "http://a b/", "://",
		"http://ä/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := health.ParseURL(raw)
		if err != nil {
			return
		}
		for _, part := range []string{q.Target, q.Path, q.Host, q.Authority} {
			require.NotEmpty(t, part)
			require.NotContains(t, part, " ")
			require.NotContains(t, part, "\r")
			require.NotContains(t, part, "\n")
		}
		again, err := health.ParseURL(q.Target)
		require.NoError(t, err)
		require.Equal(t, q, again)
	})
}

// For all changes of the pool: the number of simultaneous checks is limited, and a proxy has at most one.
// Every proxy has a result. A proxy that works is chosen last only for a short time, and its breaker closes.
func TestChecksFollowThePool(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		parallel := rapid.IntRange(1, 4).Draw(rt, "parallel")
		seed := rapid.Uint64().Draw(rt, "seed")
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			f := start(t, 0, parallel, settings(), nil)
			changed := false
			kinds := []behaviour{works, fails(verdict.ProxyUnreachable), {absolute: 405, tunnel: 200},
				fails(verdict.NoAnswerInTime), {takes: time.Minute}, {absolute: 200,
					tunnelCause: verdict.TunnelRefused}}
			for range 20 {
				var list []upstream.Spec
				for _, spec := range specs(8) {
					if rng.IntN(3) > 0 {
						list = append(list, spec)
					}
					f.net.set(spec.ID, kinds[rng.IntN(len(kinds))])
				}
				require.NoError(t, f.pool.Apply(list))
				if seed%2 == 0 && rng.IntN(8) == 0 {
					changed = true
					s := settings()
					s.Timeout = time.Duration(1+rng.IntN(3)) * time.Second
					f.c.SetSettings(s)
				}
				time.Sleep(time.Duration(rng.IntN(20_000)) * time.Millisecond)
			}
			for _, spec := range specs(8) {
				f.net.set(spec.ID, works)
			}
			time.Sleep(6 * time.Minute)
			for _, u := range f.pool.Snapshot().All {
				require.True(t, u.LastCheck().Passed, u.ID())
				require.False(t, u.IsUnreached(), u.ID())
				require.Equal(t, core.Closed, u.Breaker().State(), u.ID())
				require.Equal(t, ability.Can, f.state(u.ID(), ability.Forward))
				require.Equal(t, ability.Can, f.state(u.ID(), ability.TunnelOther))
			}
			most, overlap := f.net.totals()
			require.LessOrEqual(t, most, parallel)
			require.False(t, overlap && !changed)
		})
	})
}

// If a proxy requires an authentication scheme other than Basic, the report states this, unless a 407 is
// expected.
func TestASchemeThatIsNotSupported(t *testing.T) {
	r := health.Response{Facts: verdict.Facts{Status: 407, OfferedSchemes: "Negotiate or NTLM"}}
	require.Contains(t, (&health.Expectation{}).Difference(&r), "Negotiate or NTLM")
	require.Contains(t, (&health.Expectation{Status: 200}).Difference(&r), "Negotiate or NTLM")
	require.Empty(t, (&health.Expectation{Status: 407}).Difference(&r))
}

func TestExitAddressInABody(t *testing.T) {
	for body, want := range map[string]string{
		" 192.0.2.7\n":                                       "192.0.2.7",
		`{"ip":"2001:db8::9"}`:                               "2001:db8::9",
		"\n{\"origin\": \"192.0.2.7\"}\n":                    "192.0.2.7",
		`{"origin": "198.51.100.1, 192.0.2.7"}`:              "192.0.2.7",
		`{"status":"success","query":"192.0.2.7","lat":1.5}`: "192.0.2.7",
		`{"ip": 7, "address": "192.0.2.7"}`:                  "192.0.2.7",
		`{"ip": "none", "ip_address": "192.0.2.7"}`:          "192.0.2.7",
		`{"ip": "192.0.2.7"`:                                 "",
		`{"client": "192.0.2.7"}`:                            "",
		`{"ip": "fe80::1%eth0"}`:                             "",
		`["192.0.2.7"]`:                                      "",
		`<p>192.0.2.7</p>`:                                   "",
		"":                                                   "",
	} {
		got := ""
		if a := health.ExitAddress(health.ExitBody, &health.Response{Body: []byte(body)}); a.IsValid() {
			got = a.String()
		}
		require.Equal(t, want, got, body)
	}
}
