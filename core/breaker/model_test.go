package breaker_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// model is the specification of a breaker, without concurrency.
type model struct {
	cfg                    breaker.Config
	attempt                time.Duration // attempt timeout
	now                    time.Time
	state                  core.State
	generation             int
	failures               []time.Time
	openEnd, probeDeadline time.Time
	hasProbe               bool
	headReceived           bool
	changed                time.Time
	trips                  breaker.Trips
	events                 []core.Transition
}

// admitted is a permit of the breaker and of the model.
type admitted struct {
	permit     breaker.Permit
	generation int
	probe      bool
}

func (m *model) failureCount(at time.Time) int {
	m.failures = slices.DeleteFunc(m.failures, func(f time.Time) bool { return at.Sub(f) > m.cfg.WindowDuration })
	return len(m.failures)
}

func (m *model) change(to core.State, at time.Time, reason string) {
	m.events = append(m.events, core.Transition{ProxyID: "p", From: m.state, To: to, At: at,
		FailureCount: m.failureCount(at), Reason: reason})
	var closed time.Duration
	if m.state == core.Closed {
		closed = at.Sub(m.changed)
	}
	m.state, m.changed, m.hasProbe = to, at, false
	m.generation++
	switch to {
	case core.Closed:
		m.failures = nil
	case core.Open:
		m.openEnd = at.Add(m.trips.CountTrip(closed, m.cfg.TimeoutDuration, m.cfg.MaxTimeout))
	}
}

// advance makes the changes of state that are due, as reading a breaker does.
func (m *model) advance() {
	if m.state == core.Open && !m.now.Before(m.openEnd) {
		m.change(core.HalfOpen, m.openEnd, breaker.ReasonTimeout)
	}
	if m.state == core.HalfOpen && m.hasProbe && m.now.After(m.probeDeadline) {
		if m.headReceived {
			m.change(core.Closed, m.probeDeadline, breaker.ReasonProbeSuccess)
		} else {
			m.hasProbe = false
			m.generation++
		}
	}
}

func (m *model) admits() bool {
	return m.state == core.Closed || m.state == core.HalfOpen && !m.hasProbe
}

func (m *model) report(a admitted, v core.Verdict, enough bool) {
	if a.generation != m.generation || v != core.Failure && !a.probe {
		return
	}
	if v == core.Failure {
		m.failures = append(m.failures, m.now)
	}
	switch {
	case m.state == core.Closed && m.failureCount(m.now) >= m.cfg.FailureThreshold && enough:
		m.change(core.Open, m.now, breaker.ReasonThreshold)
	case m.state == core.Closed:
	case v == core.Success:
		m.change(core.Closed, m.now, breaker.ReasonProbeSuccess)
	case v == core.Failure:
		m.change(core.Open, m.now, breaker.ReasonProbeFailure)
	default:
		m.hasProbe = false
		m.generation++
	}
}

func TestAgainstAModel(t *testing.T) {
	for range 20 { // 100 sequences take 10 ms
		rapid.Check(t, runModel)
	}
}

func runModel(t *rapid.T) {
	seconds := func(label string, to int) time.Duration {
		return time.Duration(rapid.IntRange(1, to).Draw(t, label)) * time.Second
	}
	start := time.Unix(1_000_000, 0)
	m := &model{now: start, changed: start}
	configure := func() {
		m.attempt = seconds("attempt", 12)
		m.cfg = breaker.Config{
			FailureThreshold: rapid.IntRange(1, 4).Draw(t, "threshold"), WindowDuration: seconds("window", 12),
			TimeoutDuration: seconds("timeout", 12), MaxTimeout: seconds("longest", 40),
		}.WithAttemptTimeout(m.attempt)
	}
	configure()
	var got []core.Transition
	b := breaker.New("p", m.cfg, func() time.Time { return m.now }, func(tr core.Transition) {
		got = append(got, tr)
	})
	var out []admitted
	one := func(t *rapid.T) int {
		if len(out) == 0 {
			t.Skip()
		}
		return rapid.IntRange(0, len(out)-1).Draw(t, "which")
	}
	t.Repeat(map[string]func(*rapid.T){
		"time": func(t *rapid.T) {
			m.now = m.now.Add(time.Duration(rapid.SampledFrom([]int{1, 500, 1000, 3000, 7000, 15_000}).Draw(t,
				"ms")) * time.Millisecond)
		},
		"acquire": func(t *rapid.T) {
			p, ok := b.Acquire()
			m.advance()
			require.Equal(t, m.admits(), ok)
			if !ok {
				return
			}
			a := admitted{p, m.generation, m.state == core.HalfOpen}
			if a.probe {
				m.hasProbe, m.headReceived, m.probeDeadline = true, false, m.now.Add(m.attempt+time.Second)
			}
			out = append(out, a)
		},
		"report": func(t *rapid.T) {
			i := one(t)
			v := rapid.SampledFrom([]core.Verdict{core.Success, core.Failure, core.Failure, core.Excluded}).Draw(t,
				"verdict")
			enough := rapid.Bool().Draw(t, "enough evidence")
			out[i].permit.Report(v, breaker.Evidence{IsEnough: enough})
			m.report(out[i], v, enough)
			out = slices.Delete(out, i, i+1)
		},
		"reconsider": func(t *rapid.T) {
			a := out[one(t)]
			enough := rapid.Bool().Draw(t, "enough evidence")
			b.TripOnEvidence(a.permit.Generation(), breaker.Evidence{IsEnough: enough})
			if a.generation == m.generation && m.state == core.Closed &&
				m.failureCount(m.now) >= m.cfg.FailureThreshold && enough {
				m.change(core.Open, m.now, breaker.ReasonThreshold)
			}
		},
		"head": func(t *rapid.T) {
			a := out[one(t)]
			a.permit.ReportHead()
			if a.probe && a.generation == m.generation {
				m.headReceived = true
				if soon := m.now.Add(time.Second); soon.Before(m.probeDeadline) { // the probe may still fail until then
					m.probeDeadline = soon
				}
			}
		},
		"reset": func(t *rapid.T) {
			b.Reset()
			m.trips = breaker.Trips{}
			m.advance()
			if m.state != core.Closed {
				m.change(core.Closed, m.now, breaker.ReasonManualReset)
			}
			m.failures = nil
			m.generation++
		},
		"retest": func(t *rapid.T) {
			b.MakeHalfOpen(breaker.ReasonReachable)
			m.advance()
			if m.state == core.Open {
				m.openEnd = m.now
				m.change(core.HalfOpen, m.now, breaker.ReasonReachable)
			}
		},
		"postpone": func(t *rapid.T) {
			d := seconds("postponed by", 20)
			b.Postpone(d)
			if m.advance(); m.state == core.Open {
				m.failureCount(m.now) // Postpone forgets old failures
			}
			if at := m.now.Add(d); m.state == core.Open && at.After(m.openEnd) {
				m.openEnd = at
			}
		},
		"configure": func(t *rapid.T) {
			configure()
			cfg := m.cfg
			b.Configure(&cfg)
		},
		"state": func(t *rapid.T) {
			m.advance()
			require.Equal(t, m.state, b.State())
		},
		"admissible": func(t *rapid.T) {
			m.advance()
			require.Equal(t, m.admits(), b.Admissible())
		},
		"overdue": func(t *rapid.T) {
			m.advance()
			require.Equal(t, m.state == core.HalfOpen && !m.hasProbe && m.now.Sub(m.openEnd) > m.cfg.TimeoutDuration,
				b.ProbeOverdue())
		},
		"snapshot": func(t *rapid.T) {
			m.advance()
			want := breaker.View{State: m.state, FailureCount: m.failureCount(m.now), Config: m.cfg,
				LastChange: m.changed, LastChangeOffset: m.changed.Sub(start)}
			if m.state == core.Open {
				want.NextTest = m.openEnd
			}
			require.Equal(t, want, b.Snapshot())
		},
		"": func(t *rapid.T) { require.Equal(t, m.events, got) },
	})
}
