package ability_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	. "github.com/whirlpool-proxy/whirlpool/core/ability"
)

const second = time.Second

func TestNeeds(t *testing.T) {
	require.Equal(t, NeedForward, NeedOf(false, "a.test:80"))
	require.Equal(t, NeedForward443, NeedOf(false, "a.test:443"))
	require.Equal(t, NeedTunnel, NeedOf(true, "a.test:8443"))
	require.Equal(t, NeedTunnel443, NeedOf(true, "[::1]:443"))
}

// A request in absolute form can be sent through a tunnel. A CONNECT cannot be forwarded.
func TestMeets(t *testing.T) {
	for _, c := range []struct {
		cannot []Kind
		meets  [4]bool // by Need
	}{
		{nil, [4]bool{true, true, true, true}},
		{[]Kind{Forward}, [4]bool{true, true, true, true}},
		{[]Kind{TunnelTLS}, [4]bool{true, true, true, false}},
		{[]Kind{TunnelOther}, [4]bool{true, true, false, true}},
		{[]Kind{Forward, TunnelOther}, [4]bool{false, true, false, true}},
		{[]Kind{Forward, TunnelOther, TunnelTLS}, [4]bool{}},
	} {
		var s Set
		for _, k := range c.cannot {
			s.RecordMissing(k, second, Forever, Check)
		}
		for n, want := range c.meets {
			require.Equal(t, want, s.CanServe(Need(n), 2*second), "%v, need %d", c.cannot, n)
		}
	}
}

// The same request gets 405 in absolute form and another status through a tunnel of the proxy.
func TestComparisons(t *testing.T) {
	for name, c := range map[string]struct {
		first, second int
		proxys        bool
	}{
		"served through the tunnel":      {405, 200, true},
		"the target says not found":      {501, 404, true},
		"the target says the same":       {405, 405, false},
		"no tunnel":                      {405, 0, false},
		"forbidden, then served":         {403, 204, true},
		"forbidden, then another status": {403, 404, false},
	} {
		t.Run(name, func(t *testing.T) {
			var s Set
			var limited atomic.Bool
			s.SetMissingFlag(&limited)
			targets := uint64(1)
			if !IsUnsupported(c.first) {
				targets = 3
			}
			for target := range targets {
				require.Equal(t, target == targets-1, s.RecordRefusal(target, c.first, true, second))
			}
			require.Equal(t, c.proxys, s.RecordComparison(0, c.first, c.second, second))
			require.Equal(t, c.proxys, s.State(Forward, second) == Cannot)
			require.Equal(t, c.proxys, s.UsesTunnel(second, true))
			require.Equal(t, c.proxys, limited.Load())
			if !c.proxys {
				require.False(t, s.RecordRefusal(0, c.first, true, 30*second), "one comparison a minute")
				require.Equal(t, IsUnsupported(c.first), s.RecordRefusal(1, c.first, true, 62*second))
			}
		})
	}
}

// A proxy that opens tunnels, and has not forwarded anything yet, is compared once at its first 400, 403 or 404. If the
// target sends the same response, the next comparison requires responses of three targets again.
func TestTheFirstRefusalIsCompared(t *testing.T) {
	for _, status := range []int{400, 403, 404} {
		var s Set
		require.False(t, s.RecordRefusal(1, status, true, second), "it has opened no tunnel")
		s.RecordSuccess(TunnelTLS, second, Traffic)
		require.False(t, s.RecordRefusal(1, status, false, second), "not comparable")
		require.True(t, s.RecordRefusal(1, status, true, second))
		require.False(t, s.RecordComparison(1, status, status, second))
		require.False(t, s.RecordRefusal(2, status, true, 2*second))
		require.False(t, s.RecordRefusal(3, status, true, 2*second))
		require.True(t, s.RecordRefusal(4, status, true, 2*second))

		s.Reset()
		s.RecordSuccess(TunnelOther, second, Traffic)
		require.True(t, s.RecordRefusal(1, status, true, second))
		require.True(t, s.RecordComparison(1, status, 200, second))
		require.Equal(t, Cannot, s.State(Forward, second))

		s.Reset()
		s.RecordSuccess(TunnelOther, second, Traffic)
		s.RecordSuccess(Forward, second, Traffic)
		require.False(t, s.RecordRefusal(1, status, true, second), "it has forwarded")
	}
}

// A proxy cannot forward if it has refused requests for several targets, unless it has relayed a response between them.
func TestSeveralTargets(t *testing.T) {
	var s Set
	strike := func(target uint64, at time.Duration) {
		if s.RecordRefusal(target, 405, true, at) {
			s.RecordComparison(target, 405, 0, at)
		}
	}
	strike(1, 1*second)
	strike(2, 62*second)
	s.RecordSuccess(Forward, 63*second, Traffic)
	strike(3, 130*second)
	strike(3, 200*second)
	require.Equal(t, Can, s.State(Forward, 201*second))
	for i := range uint64(10) {
		strike(i, 300*second+time.Duration(i)*61*second)
	}
	require.Equal(t, Cannot, s.State(Forward, 1000*second), "it has changed: refusals only, for several targets")
}

// A POST is never sent twice. When POSTs for several targets were refused, the next goes through a tunnel.
func TestPosts(t *testing.T) {
	var s Set
	for target := range uint64(3) {
		require.False(t, s.UsesTunnel(second, false))
		require.False(t, s.RecordRefusal(target, 405, false, second))
	}
	require.True(t, s.UsesTunnel(second, false))
	require.False(t, s.UsesTunnel(second, true), "a GET shows whether it can forward")
	s.RecordSuccess(Forward, second, Traffic)
	require.False(t, s.UsesTunnel(second, false))
}

// A missing ability is tested again by one GET at a time, less and less often.
func TestAMissingAbilityIsTestedAgain(t *testing.T) {
	var s Set
	at := second
	for _, holds := range []time.Duration{10 * time.Minute, 20 * time.Minute, 40 * time.Minute, 80 * time.Minute,
		2 * time.Hour, 2 * time.Hour} {
		require.True(t, s.RecordRefusal(1, 405, true, at))
		require.True(t, s.RecordComparison(1, 405, 200, at))
		require.Equal(t, View{State: Cannot, Since: second, Until: at + holds}, s.View(Forward, at))
		require.True(t, s.UsesTunnel(at+holds-1, true))
		at += holds
		require.True(t, s.UsesTunnel(at, false), "not by a POST")
		require.False(t, s.UsesTunnel(at, true))
		require.True(t, s.UsesTunnel(at, true), "not by two at once")
	}
	s.RecordSuccess(Forward, at, Traffic)
	require.False(t, s.UsesTunnel(at, true))
	require.Equal(t, View{State: Can, Since: at}, s.View(Forward, at))
	s.Reset()
	require.Equal(t, View{}, s.View(Forward, at))
}

// A refused CONNECT counts when another proxy has opened a tunnel to the same target.
func TestRefusedTunnels(t *testing.T) {
	const tls, other = "a.test:443", "a.test:8443"
	for name, c := range map[string]struct {
		status, targets int
		kind            Kind
		can             bool // the proxy has opened a tunnel
		tls, other      State
	}{
		"405 says it for all ports":   {405, 1, TunnelOther, false, Cannot, Cannot},
		"501":                         {501, 1, TunnelTLS, false, Cannot, Cannot},
		"403 for one target":          {403, 1, TunnelTLS, false, Unknown, Unknown},
		"403 for several targets":     {403, 3, TunnelTLS, false, Cannot, Unknown},
		"403 for other ports":         {403, 3, TunnelOther, false, Unknown, Cannot},
		"403, and it opens tunnels":   {403, 20, TunnelTLS, true, Can, Unknown},
		"405 once, and opens tunnels": {405, 1, TunnelTLS, true, Can, Cannot},
		"405 for ever since":          {405, 8, TunnelTLS, true, Cannot, Cannot},
		"502 is the target's":         {502, 9, TunnelTLS, false, Unknown, Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			var s, good Set
			var l Refusals
			if c.can {
				s.RecordSuccess(c.kind, second, Traffic)
			}
			for target := range uint64(c.targets) {
				l.Add(&s, c.kind, target, c.status, second)
				l.RecordServed(&s, c.kind, target, second)
				l.RecordServed(&good, c.kind, target+1000, second)
				l.RecordServed(&good, Forward, target, second)
			}
			before := s.State(c.kind, second)
			require.NotEqual(t, Cannot, before, "nobody else has opened them")
			for target := range uint64(c.targets) {
				l.RecordServed(&good, c.kind, target, 2*second)
			}
			require.Equal(t, c.tls, s.State(TunnelTLS, 2*second))
			require.Equal(t, c.other, s.State(TunnelOther, 2*second))
			s.RecordSuccess(TunnelTLS, 3*second, Traffic)
			require.Equal(t, Can, s.State(TunnelTLS, 3*second))
		})
	}
	require.Equal(t, TunnelTLS, TunnelTo(tls))
	require.Equal(t, TunnelOther, TunnelTo(other))
}

// If all refusals are for one target, four refusals with 403 are needed.
func TestOneTarget(t *testing.T) {
	var s, good Set
	var l Refusals
	for i := range 4 {
		require.Equal(t, Unknown, s.State(TunnelTLS, second), "after %d", i)
		l.Add(&s, TunnelTLS, 1, 403, second)
		l.RecordServed(&good, TunnelTLS, 1, second)
	}
	require.Equal(t, Cannot, s.State(TunnelTLS, second))
	require.Equal(t, Unknown, s.State(TunnelOther, second))
}

// If a proxy refuses a request and another proxy serves the same request, the first cannot forward.
func TestRefusedRequests(t *testing.T) {
	var s, good, proven Set
	var l Refusals
	require.True(t, l.Empty())
	proven.RecordSuccess(Forward, second, Traffic)
	for _, by := range []*Set{&s, &proven} {
		l.Add(by, Forward, 7, 405, second)
	}
	require.False(t, l.Empty())
	l.RecordServed(&good, TunnelOther, 7, second)
	require.Equal(t, Unknown, s.State(Forward, second))
	l.RecordServed(&good, Forward, 7, second)
	require.Equal(t, Cannot, s.State(Forward, second))
	require.Equal(t, Unknown, s.State(TunnelOther, second))
	require.Equal(t, Can, proven.State(Forward, second))
	require.True(t, l.Empty())
}

// Old refusals are not compared, and their number is limited.
func TestRefusalsAreForgotten(t *testing.T) {
	var s, good Set
	var l Refusals
	l.Add(&s, TunnelTLS, 1, 405, second)
	l.RecordServed(&good, TunnelTLS, 1, 62*second)
	require.Equal(t, Unknown, s.State(TunnelTLS, 62*second))
	for target := range uint64(100) {
		l.Add(&s, TunnelTLS, target, 405, 63*second)
	}
	l.RecordServed(&good, TunnelTLS, 35, 63*second)
	require.Equal(t, Unknown, s.State(TunnelTLS, 63*second), "the oldest have gone")
	l.RecordServed(&good, TunnelTLS, 36, 63*second)
	require.Equal(t, Cannot, s.State(TunnelTLS, 63*second))
}

// proxy has the real abilities of a proxy.
type proxy struct{ forwards, tunnels bool }

// run sends a request as package transport does. It returns the status that the client gets.
func (p *proxy) run(s *Set, target uint64, targetStatus int, get bool, at time.Duration) int {
	absolute := func() int {
		if p.forwards {
			return targetStatus
		}
		return 405
	}
	refused := false
	if s.UsesTunnel(at, get) {
		if p.tunnels {
			return targetStatus
		}
		refused = true
	}
	status := absolute()
	switch {
	case status < 400:
		s.RecordSuccess(Forward, at, Traffic)
	case refused && IsUnsupported(status):
		s.RecordRefusedForward(TunnelOther, target, at)
	case !refused && s.RecordRefusal(target, status, get, at):
		through := 0
		if p.tunnels {
			through = targetStatus
		}
		if s.RecordComparison(target, status, through, at) {
			return through
		}
	}
	return status
}

// For all requests and targets: a GET through a proxy that opens tunnels always gets the target's
// response. A proxy that forwards and opens tunnels never loses an ability. If a proxy begins to forward,
// the set learns this.
func TestProxiesThatChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s Set
		p := proxy{rapid.Bool().Draw(t, "forwards"), rapid.Bool().Draw(t, "tunnels")}
		tunnels := true // the proxy has opened tunnels since the beginning
		always := true  // the proxy has forwarded and opened tunnels since the beginning
		at := time.Duration(0)
		request := func(target uint64, get bool) {
			status := []int{200, 200, 200, 405, 404, 403, 501}[target%7]
			got := p.run(&s, target, status, get, at)
			if always = always && p.forwards && p.tunnels; always {
				require.NotEqual(t, Cannot, s.State(Forward, at))
				require.Equal(t, status, got)
			}
			if tunnels = tunnels && p.tunnels; tunnels && get && status < 400 && s.State(Forward, at) != Can {
				require.Equal(t, status, got)
			}
			if p.forwards && got != 405 && got != 501 {
				require.Equal(t, status, got)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"get":  func(t *rapid.T) { request(rapid.Uint64Range(0, 20).Draw(t, "target"), true) },
			"post": func(t *rapid.T) { request(rapid.Uint64Range(0, 20).Draw(t, "target"), false) },
			"wait": func(t *rapid.T) { at += time.Duration(rapid.IntRange(0, 600).Draw(t, "s")) * second },
			"change": func(t *rapid.T) {
				p = proxy{rapid.Bool().Draw(t, "forwards"), rapid.Bool().Draw(t, "tunnels")}
			},
		})
		p = proxy{forwards: true}
		for range 3 {
			at += 2*time.Hour + second
			request(0, true)
		}
		require.Equal(t, Can, s.State(Forward, at))
	})
}
