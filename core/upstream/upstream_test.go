package upstream

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

func TestParseAddress(t *testing.T) {
	for text, want := range map[string]Address{
		"http://a.test":                      {HTTP, "a.test:80", "", ""},
		"HTTPS://A.Test":                     {HTTPS, "a.test:443", "", ""},
		"socks5://a.test":                    {SOCKS5, "a.test:1080", "", ""},
		"socks5h://a.test:9/":                {SOCKS5H, "a.test:9", "", ""},
		"http://[2001:DB8::1]:3128":          {HTTP, "[2001:db8::1]:3128", "", ""},
		"http://user:pass@a.test:1":          {HTTP, "a.test:1", "user", "pass"},
		"http://user@a.test:1":               {HTTP, "a.test:1", "user", ""},
		"http://u%40x:p%3Aq%2f@a.test:1":     {HTTP, "a.test:1", "u@x", "p:q/"},
		"http://u:p@ss:word@a.test:1":        {HTTP, "a.test:1", "u", "p@ss:word"},
		"http://u:100%@a.test:1":             {HTTP, "a.test:1", "u", "100%"},
		"http://a.test:/":                    {HTTP, "a.test:80", "", ""},
		"direct://":                          {Direct, "", "", ""},
		"http://[fe80::1%eth0]:3128":         {HTTP, "[fe80::1%eth0]:3128", "", ""},
		"http://user-session-1:x@1.2.3.4:80": {HTTP, "1.2.3.4:80", "user-session-1", "x"},
	} {
		got, err := ParseAddress(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, got, text)
	}
	for _, bad := range []string{
		"", "a.test:80", "ftp://a.test", "http://", "http://:80", "http://a.test:0", "http://a.test:65536",
		"http://a.test:x", "http://a b:1",
		"direct://a.test", "http://2001:db8::1:80", "http://[a.test]:80", "http://[2001:db8::1", "http://[1.2.3.4]:80",
		"http://hunter2:hunter2@a.test:nope", "http://u:hunter2\r\nX: y@a.test:1", "http://a.test/hunter2",
		"http://" + strings.Repeat("a", 256) + ":80",
		"http://a\x01.test:1", "http://[fe80::1%a b]:1", "http://[fe80::1%a\nb]:1", "http://a%.test:1",
	} {
		_, err := ParseAddress(bad)
		require.Error(t, err, bad)
		assert.NotContains(t, err.Error(), "hunter2", "an error never quotes what may be a credential")
	}
}

func FuzzParseAddress(f *testing.F) {
	f.Add("http://user:pass@a.test:1")
	f.Add("socks5h://[::1]:1080/")
	f.Add("direct://")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if p := a.Password.Reveal(); len(p) > 3 && !strings.Contains(a.Scheme+"://"+a.Host, p) &&
			strings.Contains(fmt.Sprintf("%v %+v %#v %s", a, a, a.Password, a.Redacted()), p) {
			t.Fatalf("%q shows its password", s)
		}
		if a.Scheme != Direct {
			if again, err := HostPort(a.Host, ""); err != nil || again != a.Host {
				t.Fatalf("%q gives %q, which reads as %q, %v", s, a.Host, again, err)
			}
		}
	})
}

func TestASecretIsNotPrinted(t *testing.T) {
	a, err := ParseAddress("http://me:hunter2@a.test:1")
	require.NoError(t, err)
	raw, err := json.Marshal(map[string]any{"a": a, "p": a.Password})
	require.NoError(t, err)
	for _, text := range []string{fmt.Sprint(a), fmt.Sprintf("%+v", a), fmt.Sprintf("%#v", a.Password),
		fmt.Sprintf("%q", a.Password), fmt.Sprintf("%x", a.Password), string(raw), a.Redacted()} {
		assert.NotContains(t, text, "hunter2")
		assert.NotContains(t, text, fmt.Sprintf("%x", "hunter2"))
	}
	assert.Equal(t, "hunter2", a.Password.Reveal())
}

func specs(t testing.TB, urls ...string) []Spec {
	var list []Spec
	for _, u := range urls {
		a, err := ParseAddress(u)
		require.NoError(t, err)
		list = append(list, Spec{Address: a})
	}
	return list
}

func TestIdsAreStable(t *testing.T) {
	list := specs(t, "http://a.test:1", "http://u:p@a.test:1", "http://b.test:1", "socks5://a.test:1", "direct://")
	AssignIDs(list)
	var ids []string
	for _, s := range list {
		ids = append(ids, s.ID)
	}
	assert.Equal(t, []string{"a.test:1", "a.test:1-2", "b.test:1", "a.test:1-3", "direct"}, ids)
}

func pool(t testing.TB, now func() time.Time, notify func(core.Transition)) *Pool {
	return NewPool(PoolConfig{Literal: true, Breaker: breaker.Config{FailureThreshold: 2, WindowDuration: time.Minute,
		TimeoutDuration: time.Second}, Now: now, Notify: notify})
}

// Success rate, samples and latencies are compared with values computed from all attempts: the last 100 that
// are not older than the memory.
func TestTheWindowAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w window
		var s stats
		s.init()
		type attempt struct {
			ok      bool
			latency float64
			at      time.Duration
		}
		memory := rapid.SampledFrom([]time.Duration{0, time.Second, 10 * time.Second}).Draw(t, "memory")
		var at time.Duration
		var history []attempt
		n := rapid.IntRange(0, 350).Draw(t, "attempts")
		bad := rapid.Float64Range(0, 1).Draw(t, "share of failures")
		for range n {
			at += time.Duration(rapid.IntRange(0, 5).Draw(t, "tenths")) * 100 * time.Millisecond
			a := attempt{rapid.Float64Range(0, 1).Draw(t, "chance") >= bad,
				float64(rapid.IntRange(0, 5000).Draw(t, "ms")) / 1000, at}
			v := core.Failure
			if a.ok {
				v = core.Success
			}
			latency := time.Duration(a.latency * float64(time.Second))
			w.addAttempt(&s, v, attemptResult{latency: latency, at: at}, memory, false)
			history = append(history, a)
		}
		if rapid.Bool().Draw(t, "time passes") {
			at += 700 * time.Millisecond
			w.dropExpired(&s, at, memory)
		}
		last := history[max(0, len(history)-windowSize):]
		for memory > 0 && len(last) > 0 && last[0].at < at-memory {
			last = last[1:]
		}
		rate, sum, measured, failures := 0.5, 0.0, 0.0, 0.0
		if len(last) > 0 {
			ok := 0.0
			for _, a := range last {
				if a.ok {
					ok++
					sum += a.latency
					measured++
				}
			}
			rate = ok / float64(len(last))
		}
		for i := len(history) - 1; i >= 0 && !history[i].ok; i-- {
			failures++
		}
		if len(last) < windowSize {
			failures = min(failures, float64(len(last)))
		}
		mean := 0.0
		if measured > 0 {
			mean = sum / measured
		}
		for name, pair := range map[string][2]float64{
			"success rate": {load(&s.successRate), rate}, "samples": {load(&s.samples), float64(len(last))},
			"mean": {load(&s.mean), mean}, "failures": {load(&s.failures), failures},
		} {
			if math.Abs(pair[0]-pair[1]) > 1e-6 {
				t.Fatalf("%s is %v, the model says %v", name, pair[0], pair[1])
			}
		}
	})
}

func TestAReloadKeepsProxiesThatStay(t *testing.T) {
	now := time.Unix(1000, 0)
	p := pool(t, func() time.Time { return now }, nil)
	require.NoError(t, p.Apply(specs(t, "http://a.test:1", "http://b.test:1")))
	a := p.Snapshot().Get("a.test:1")
	for range 2 {
		lease, ok := a.Acquire(now)
		require.True(t, ok)
		lease.Settle(&core.Outcome{Verdict: core.Failure})
		lease.Settle(&core.Outcome{Verdict: core.Success}) // a second call has no effect
		lease.Release()
	}
	require.Equal(t, core.Open, a.Breaker().State())
	_, ok := a.Acquire(now)
	require.False(t, ok)
	added, err := p.Add(specs(t, "http://c.test:1"))
	require.NoError(t, err)
	require.Len(t, added, 1)

	next := specs(t, "http://a.test:1", "http://d.test:1")
	next[0].Weight, next[0].Region = 3, "eu"
	require.NoError(t, p.Apply(next))
	snap := p.Snapshot()
	assert.Same(t, a, snap.Get("a.test:1"), "same id, same address: the same proxy")
	assert.Equal(t, core.Open, a.Breaker().State())
	assert.Equal(t, 2, a.Stats().Samples)
	assert.Equal(t, 3.0, a.Spec().Weight)
	assert.Nil(t, snap.Get("b.test:1"))
	assert.NotNil(t, snap.Get("d.test:1"))

	moved := specs(t, "http://other.test:1")
	moved[0].ID = "a.test:1"
	require.NoError(t, p.Apply(moved))
	assert.NotSame(t, a, p.Snapshot().Get("a.test:1"), "another address begins anew")
	assert.Equal(t, core.Closed, p.Snapshot().Get("a.test:1").Breaker().State())
}

// Proxies with the same host and port, for example the sessions of a vendor, keep their ids, breakers and
// statistics if others are added or removed, or if the order changes.
func TestAReloadKeepsProxiesWithTheSamePlace(t *testing.T) {
	p := NewPool(PoolConfig{Breaker: breaker.Default(), Now: time.Now})
	at := func(user string) Spec { return Spec{Address: Address{Scheme: HTTP, Host: "h:1", Username: user}} }
	require.NoError(t, p.Apply([]Spec{at("a"), at("b"), at("c"), at("c")}))
	ids := func() (all []string) {
		for _, u := range p.Snapshot().All {
			all = append(all, u.Spec().Address.Username+" "+u.ID())
		}
		return all
	}
	require.Equal(t, []string{"a h:1", "b h:1-2", "c h:1-3", "c h:1-4"}, ids())
	b := p.Snapshot().Get("h:1-2")

	require.NoError(t, p.Apply([]Spec{at("c"), at("b"), at("new")}))
	require.Equal(t, []string{"c h:1-3", "b h:1-2", "new h:1"}, ids())
	require.Same(t, b, p.Snapshot().Get("h:1-2"))

	named := at("b")
	named.ID = "mine"
	other := at("x")
	other.ID = "h:1-3"
	require.NoError(t, p.Apply([]Spec{named, other, at("c")}))
	require.Equal(t, []string{"b mine", "x h:1-3", "c h:1"}, ids(), "an id that is configured comes first")
	require.NoError(t, p.Apply([]Spec{at("b")}))
	require.Equal(t, []string{"b h:1"}, ids(), "one that was configured and is no more goes")
}

// A reload keeps a proxy that was added through the API, unless the file has a proxy with its id.
func TestAReloadKeepsTheProxiesOfTheAPI(t *testing.T) {
	p := NewPool(PoolConfig{Breaker: breaker.Default(), Now: time.Now})
	at := func(user, source string) Spec {
		return Spec{Address: Address{Scheme: HTTP, Host: "h:1", Username: user}, Source: source}
	}
	added, err := p.Add([]Spec{at("a", SourceAPI)})
	require.NoError(t, err)
	require.NoError(t, p.Apply([]Spec{at("b", "config")}))
	require.Same(t, added[0], p.Snapshot().Get("h:1"))
	require.Equal(t, "b", p.Snapshot().Get("h:1-2").Spec().Address.Username)

	require.NoError(t, p.Apply([]Spec{at("b", "config"), at("a", "config")}))
	require.Len(t, p.Snapshot().All, 2)
	require.Same(t, added[0], p.Snapshot().Get("h:1"))
	require.Equal(t, "config", added[0].Spec().Source)
}

func TestABadListChangesNothing(t *testing.T) {
	p := pool(t, time.Now, nil)
	require.NoError(t, p.Apply(specs(t, "http://a.test:1")))
	before := p.Snapshot()
	twice := specs(t, "http://b.test:1", "http://c.test:1")
	twice[0].ID, twice[1].ID = "x", "x"
	negative := specs(t, "http://b.test:1")
	negative[0].Weight = -1
	reserved := specs(t, "http://b.test:1")
	reserved[0].ID = "metrics"
	direct := specs(t, "http://b.test:1")
	direct[0].ID = DirectID
	long := specs(t, "http://b.test:1")
	long[0].ID = strings.Repeat("x", MaxIDLength+1)
	for _, bad := range [][]Spec{twice, negative, reserved, direct, long} {
		assert.ErrorIs(t, p.Apply(bad), ErrSpec)
		assert.Same(t, before, p.Snapshot())
	}
}

func TestDraining(t *testing.T) {
	var left []string
	p := NewPool(PoolConfig{Breaker: breaker.Default(), Now: time.Now,
		OnRemove: func(u *Upstream) { left = append(left, u.ID()) }})
	require.NoError(t, p.Apply(specs(t, "http://a.test:1", "http://b.test:1")))
	a := p.Snapshot().Get("a.test:1")
	lease, ok := a.Acquire(time.Now())
	require.True(t, ok)
	require.NoError(t, p.Remove("a.test:1", true))
	assert.True(t, a.Draining())
	assert.NotNil(t, p.Snapshot().Get("a.test:1"), "listed until its last request has ended")
	p.Sweep()
	assert.Empty(t, left)
	lease.Release()
	p.Sweep()
	assert.Nil(t, p.Snapshot().Get("a.test:1"))
	assert.Equal(t, []string{"a.test:1"}, left)
	assert.Error(t, p.Remove("a.test:1", false))
}

func TestChangesDoNotEndADrain(t *testing.T) {
	p := NewPool(PoolConfig{Breaker: breaker.Default(), Now: time.Now})
	require.NoError(t, p.Apply(specs(t, "http://c.test:1")))
	added := specs(t, "http://a.test:1", "http://b.test:1")
	for i := range added {
		added[i].Source = SourceAPI
	}
	_, err := p.Add(added)
	require.NoError(t, err)
	a := p.Snapshot().Get("a.test:1")
	lease, ok := a.Acquire(time.Now())
	require.True(t, ok)
	require.NoError(t, p.Remove("a.test:1", true))
	still := func() {
		t.Helper()
		require.Same(t, a, p.Snapshot().Get("a.test:1"))
		require.True(t, a.Draining())
	}
	_, err = p.Add(specs(t, "http://d.test:1"))
	require.NoError(t, err)
	still()
	err = p.UpdateAll(Updates{"b.test:1": func(s *Spec) error { s.Weight = 3; return nil }})
	require.NoError(t, err)
	still()
	require.NoError(t, p.Apply(specs(t, "http://c.test:1", "http://e.test:1")))
	still()
	err = p.UpdateAll(Updates{"a.test:1": func(*Spec) error { return nil }})
	require.ErrorIs(t, err, ErrDraining)
	lease.Release()
	p.Sweep()
	require.Nil(t, p.Snapshot().Get("a.test:1"))
	require.Len(t, p.Snapshot().All, 3, "b, c and e; d was of the file's")
}

func TestInService(t *testing.T) {
	p := NewPool(PoolConfig{Breaker: breaker.Default(), Now: time.Now})
	require.NoError(t, p.Apply(specs(t, "http://a.test:1", "http://b.test:1", "http://c.test:1")))
	of := p.Snapshot().Get
	for _, u := range p.Snapshot().All {
		require.True(t, u.InService(false))
		require.False(t, u.InService(true), "banned")
	}
	of("a.test:1").SetReached(false)
	require.False(t, of("a.test:1").InService(false), "unreached")
	of("b.test:1").Breaker().OpenForCluster(time.Hour, "test")
	require.Equal(t, core.Open, of("b.test:1").State())
	require.False(t, of("b.test:1").InService(false), "open")
	c := of("c.test:1")
	lease, ok := c.Acquire(time.Now())
	require.True(t, ok)
	defer lease.Release()
	require.NoError(t, p.Remove("c.test:1", true))
	require.False(t, c.InService(false), "draining")
}

// Mixed holds each proxy once, in the order of the hash of its id, after any sequence of changes.
func TestTheMixedOrder(outer *testing.T) {
	rapid.Check(outer, func(t *rapid.T) {
		p := pool(outer, time.Now, nil)
		for range rapid.IntRange(1, 10).Draw(t, "changes") {
			urls := []string{}
			for range rapid.IntRange(0, 30).Draw(t, "proxies") {
				urls = append(urls, fmt.Sprintf("http://h%d.test:1", rapid.IntRange(0, 99).Draw(t, "host")))
			}
			if rapid.Bool().Draw(t, "add") {
				_, err := p.Add(specs(outer, urls...))
				require.NoError(t, err)
			} else {
				require.NoError(t, p.Apply(specs(outer, urls...)))
			}
			s := p.Snapshot()
			require.ElementsMatch(t, s.All, s.Mixed)
			require.True(t, slices.IsSortedFunc(s.Mixed, func(a, b *Upstream) int {
				return cmp.Compare(a.IDHash(), b.IDHash())
			}))
			for _, u := range s.All {
				require.Same(t, u, s.Get(u.ID()))
			}
		}
	})
}

// A draining proxy admits no attempt, also if Admissible was true before.
func TestDrainingAdmitsNothing(t *testing.T) {
	p := pool(t, time.Now, nil)
	require.NoError(t, p.Apply(specs(t, "http://a.test:1")))
	u := p.Snapshot().All[0]
	lease, ok := u.Acquire(time.Now())
	require.True(t, ok)
	require.NoError(t, p.Remove(u.ID(), true))
	require.False(t, u.Admissible(p.Elapsed(time.Now()), true))
	_, ok = u.Acquire(time.Now())
	require.False(t, ok)
	require.EqualValues(t, 1, u.InFlight())
	lease.Release()
	require.Zero(t, u.InFlight())
}

// While the pool changes, each snapshot is complete, and no place in flight is lost.
func TestThePoolUnderChange(t *testing.T) {
	p := pool(t, time.Now, func(core.Transition) {})
	require.NoError(t, p.Apply(specs(t, "http://a.test:1", "http://b.test:1")))
	a := p.Snapshot().Get("a.test:1")
	stop := coretest.RunConcurrently(4, func(i int) {
		for _, u := range p.Snapshot().All {
			if lease, ok := u.Acquire(time.Now()); ok {
				v := core.Success
				if i == 0 {
					v = core.Failure
				}
				lease.Settle(&core.Outcome{Verdict: v, Latency: time.Millisecond})
				lease.Release()
			}
		}
	})
	for i := range 300 {
		switch i % 3 {
		case 0:
			require.NoError(t, p.Apply(specs(t, "http://a.test:1", fmt.Sprintf("http://n%d.test:1", i))))
		case 1:
			p.Sweep()
		case 2:
			_, err := p.Add(specs(t, fmt.Sprintf("http://x%d.test:1", i)))
			require.NoError(t, err)
			require.NoError(t, p.Remove(fmt.Sprintf("x%d.test:1", i), i%2 == 0))
		}
	}
	stop()
	assert.Same(t, a, p.Snapshot().Get("a.test:1"))
	assert.Zero(t, a.InFlight())
}

// A selection reads hundreds of these structs, so they take two cache lines each.
func TestARowIsTwoCacheLines(t *testing.T) {
	require.EqualValues(t, 128, unsafe.Sizeof(Upstream{}))
}

func TestReuseChanges(t *testing.T) {
	a, b := Spec{ID: "p"}, Spec{ID: "p", Extras: &Extras{NoReuse: true}}
	require.False(t, a.equal(&b))
	require.True(t, b.equal(&b))
}

func TestMaxInFlight(t *testing.T) {
	p := pool(t, time.Now, nil)
	list := specs(t, "http://a.test:1")
	list[0].Extras = &Extras{MaxInFlight: 2}
	require.NoError(t, p.Apply(list))
	u := p.Snapshot().All[0]
	one, ok := u.Acquire(time.Now())
	require.True(t, ok)
	two, ok := u.Acquire(time.Now())
	require.True(t, ok)
	_, ok = u.Acquire(time.Now())
	require.False(t, ok)
	require.True(t, u.Full())
	two.Release()
	two.Release() // has no effect the second time
	require.EqualValues(t, 1, u.InFlight())
	one.Release()
}

// An own_error rule needs at least one part, and only parts that can match. A change of the rules is a
// change of the proxy's configuration.
func TestOwnErrorRules(t *testing.T) {
	a, err := ParseAddress("http://h:1")
	require.NoError(t, err)
	spec := func(rules ...OwnError) *Spec { return &Spec{Address: a, Extras: &Extras{OwnErrors: rules}} }
	for _, good := range []OwnError{
		{Status: 400}, {Status: 999}, {Header: "X-Error"}, {Header: "X-Error:"}, {Header: "x-error: a: b"}, {Body: "x"},
		{Status: 500, Header: "A", Body: "x"},
		{Header: "A: " + strings.Repeat("x", 1021)}, {Body: strings.Repeat("x", 1024)},
	} {
		require.NoError(t, CheckSpec(spec(good)), "%+v", good)
	}
	for field, bad := range map[string]*Spec{
		"own_error[0]":        spec(OwnError{}),
		"own_error[1].status": spec(OwnError{Status: 500}, OwnError{Status: 399}),
		"own_error[0].status": spec(OwnError{Status: 1000, Body: "x"}),
		"own_error[2].header": spec(OwnError{Status: 500}, OwnError{Status: 501}, OwnError{Header: ":x"}),
		"own_error[0].header": spec(OwnError{Header: "größe: 1"}),
		"own_error[0].body":   spec(OwnError{Body: strings.Repeat("x", 1025)}),
		"own_error":           spec(make([]OwnError, MaxOwnErrors+1)...),
	} {
		var wrong *SpecError
		require.ErrorAs(t, CheckSpec(bad), &wrong, field)
		require.Equal(t, field, wrong.Field)
		require.Contains(t, wrong.Msg, field)
	}
	require.True(t, spec(OwnError{Status: 500}).equal(spec(OwnError{Status: 500})))
	require.False(t, spec(OwnError{Status: 500}).equal(spec(OwnError{Status: 501})))
	require.False(t, spec().equal(spec(OwnError{Status: 501})))
}

// An own failure counts even if the target fails for the other proxies, too. A failed probe counts if there
// is no other proxy.
func TestFailuresThatCountAtADeadTarget(t *testing.T) {
	now := time.Unix(1000, 0)
	p := NewPool(PoolConfig{Breaker: breaker.Default(), Now: func() time.Time { return now }})
	list := specs(t, "http://a.test:1", "http://b.test:1", "http://c.test:1")
	require.NoError(t, p.Apply(list))
	attempt := func(id string, target string, o core.Outcome) {
		lease, ok := p.Snapshot().Get(id).Acquire(now)
		require.True(t, ok)
		lease.Target = Target(target)
		now = now.Add(10 * time.Millisecond)
		o.Latency = 10 * time.Millisecond
		lease.Settle(&o)
		lease.Release()
	}
	dead := core.Outcome{Verdict: core.Failure, Charge: core.ChargeProxyOrTarget}
	for range 5 {
		attempt("b.test:1", "dead:80", dead)
		attempt("c.test:1", "dead:80", dead)
	}
	attempt("a.test:1", "dead:80", core.Outcome{Verdict: core.Success})
	a := p.Snapshot().Get("a.test:1")
	require.Equal(t, 1.0, a.Stats().SuccessRate)
	for range 5 {
		attempt("b.test:1", "dead:80", dead)
	}
	attempt("a.test:1", "dead:80", dead)
	require.Equal(t, 1.0, a.Stats().SuccessRate, "it fails for the others as well")
	attempt("a.test:1", "dead:80", core.Outcome{Verdict: core.Failure, Charge: core.ChargeProxy})
	require.Equal(t, 0.5, a.Stats().SuccessRate)

	// All attempts fail at several targets: all breakers open, and each probe fails.
	for i := range 90 {
		for _, u := range p.Snapshot().All {
			if u.Admissible(p.Elapsed(now), true) {
				attempt(u.ID(), []string{"x:80", "y:80", "z:80"}[i%3], dead)
			}
		}
	}
	for range 3 {
		probes := 0
		now = now.Add(30 * time.Second)
		for i := range 90 {
			for _, u := range p.Snapshot().All {
				if u.Admissible(p.Elapsed(now), true) {
					attempt(u.ID(), []string{"x:80", "y:80", "z:80"}[i%3], dead)
					probes++
				}
			}
		}
		require.LessOrEqual(t, probes, 6, "about one probe each")
		for _, u := range p.Snapshot().All {
			require.Equal(t, core.Open, u.Breaker().State())
		}
	}
}
