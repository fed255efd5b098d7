package breaker_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// startProbe returns a breaker with a probe that has just begun.
func startProbe(
	t *testing.T, probeTimeout time.Duration, notify func(core.Transition),
) (b *breaker.Breaker, probe breaker.Permit, now *time.Time) {
	now = new(time.Unix(1000, 0))
	b = breaker.New("p", breaker.Config{FailureThreshold: 1, WindowDuration: time.Minute,
		TimeoutDuration: time.Second}.WithAttemptTimeout(probeTimeout-time.Second),
		func() time.Time { return *now }, notify)
	p, _ := b.Acquire()
	p.Report(core.Failure, breaker.AlwaysEnough)
	*now = now.Add(time.Second)
	probe, ok := b.Acquire()
	require.True(t, ok)
	return b, probe, now
}

func TestProbeTimeout(t *testing.T) {
	const probeTimeout = 10 * time.Second
	for name, c := range map[string]struct {
		readBefore   bool // the state is read after the probe timeout and before the report
		headReceived bool
		verdict      core.Verdict
		want         core.State
	}{
		"late failure, state not read":          {false, false, core.Failure, core.Open},
		"late failure, state read":              {true, false, core.Failure, core.HalfOpen},
		"late success, state read":              {true, false, core.Success, core.HalfOpen},
		"head in time, late success":            {true, true, core.Success, core.Closed},
		"head in time, late failure":            {true, true, core.Failure, core.Closed},
		"head in time, failure, state not read": {false, true, core.Failure, core.Open},
	} {
		t.Run(name, func(t *testing.T) {
			events := 0
			b, probe, now := startProbe(t, probeTimeout, func(core.Transition) { events++ })
			if c.headReceived {
				*now = now.Add(probeTimeout / 2)
				probe.ReportHead()
				require.Equal(t, core.HalfOpen, b.State(), "within the probe timeout it may still fail")
			}
			*now = now.Add(probeTimeout + 1)
			if c.readBefore {
				b.State()
			}
			probe.Report(c.verdict, breaker.AlwaysEnough)
			require.Equal(t, c.want, b.State())
			_, ok := b.Acquire()
			require.Equal(t, c.want != core.Open, ok, "the breaker still admits attempts")
			require.Equal(t, map[core.State]int{core.Open: 3, core.HalfOpen: 2, core.Closed: 3}[c.want], events)
		})
	}
}

// After ReportHead a probe holds the half-open breaker for at most one more second, for any probe timeout.
func TestAProbeWithAResponseSucceeds(t *testing.T) {
	b, probe, now := startProbe(t, time.Minute, func(core.Transition) {})
	*now = now.Add(10 * time.Second)
	require.Equal(t, core.HalfOpen, b.State(), "no head yet")
	probe.ReportHead()
	*now = now.Add(time.Second)
	require.Equal(t, core.HalfOpen, b.State())
	*now = now.Add(time.Millisecond)
	require.Equal(t, core.Closed, b.State())
	_, ok := b.Acquire()
	require.True(t, ok)
}

func TestAHeadOfOneProbeHasNoEffectOnTheNext(t *testing.T) {
	b, first, now := startProbe(t, time.Minute, func(core.Transition) {})
	first.ReportHead()
	first.Report(core.Excluded, breaker.AlwaysEnough)
	_, ok := b.Acquire()
	require.True(t, ok)
	*now = now.Add(2 * time.Minute)
	require.Equal(t, core.HalfOpen, b.State())
}
