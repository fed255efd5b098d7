package breaker_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// probing returns a breaker with a probe that has just begun, and the clock of the breaker.
func probing(t *testing.T, hold time.Duration, notify func(core.Transition)) (b *breaker.Breaker, probe breaker.Permit,
	now *time.Time) {
	now = new(time.Unix(1000, 0))
	b = breaker.New("p", breaker.Config{FailureThreshold: 1, WindowDuration: time.Minute,
		TimeoutDuration: time.Second}.WithAttemptTimeout(hold-time.Second),
		func() time.Time { return *now }, notify)
	p, _ := b.Acquire()
	p.Report(core.Failure, breaker.Literal)
	*now = now.Add(time.Second)
	probe, ok := b.Acquire()
	require.True(t, ok)
	return b, probe, now
}

// A probe is reported just before and just after the end of the probe timeout.
func TestProbeTimeout(t *testing.T) {
	const hold = 10 * time.Second
	for name, c := range map[string]struct {
		look     bool // the state is read after the probe timeout and before the report
		answered bool
		verdict  core.Verdict
		want     core.State
	}{
		"late, and nobody has looked":            {false, false, core.Failure, core.Open},
		"late, and the slot is lost":             {true, false, core.Failure, core.HalfOpen},
		"lost probes do not close it":            {true, false, core.Success, core.HalfOpen},
		"its answer still streams":               {true, true, core.Success, core.Closed},
		"and breaks off after the probe timeout": {true, true, core.Failure, core.Closed},
		"or just when nobody has looked":         {false, true, core.Failure, core.Open},
	} {
		t.Run(name, func(t *testing.T) {
			events := 0
			b, probe, now := probing(t, hold, func(core.Transition) { events++ })
			if c.answered {
				*now = now.Add(hold / 2)
				probe.Answered()
				require.Equal(t, core.HalfOpen, b.State(), "within the probe timeout it may still fail")
			}
			*now = now.Add(hold + 1)
			if c.look {
				b.State()
			}
			probe.Report(c.verdict, breaker.Literal)
			require.Equal(t, c.want, b.State())
			_, ok := b.Acquire()
			require.Equal(t, c.want != core.Open, ok, "it wedges in no case")
			require.Equal(t, map[core.State]int{core.Open: 3, core.HalfOpen: 2, core.Closed: 3}[c.want], events)
		})
	}
}

// After Answered a probe holds the half-open breaker for at most one more second, for any probe timeout.
func TestAProbeWithAResponseSucceeds(t *testing.T) {
	b, probe, now := probing(t, time.Minute, func(core.Transition) {})
	*now = now.Add(10 * time.Second)
	require.Equal(t, core.HalfOpen, b.State(), "nothing has come yet")
	probe.Answered()
	*now = now.Add(time.Second)
	require.Equal(t, core.HalfOpen, b.State())
	*now = now.Add(time.Millisecond)
	require.Equal(t, core.Closed, b.State())
	_, ok := b.Acquire()
	require.True(t, ok)
}

// A call of Answered for one probe has no effect on the next probe.
func TestAnsweredConcernsOneProbe(t *testing.T) {
	b, first, now := probing(t, time.Minute, func(core.Transition) {})
	first.Answered()
	first.Report(core.Excluded, breaker.Literal)
	_, ok := b.Acquire()
	require.True(t, ok)
	*now = now.Add(2 * time.Minute)
	require.Equal(t, core.HalfOpen, b.State())
}
