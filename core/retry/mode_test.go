package retry

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestOverrideModes(t *testing.T) {
	for _, name := range []string{"", "any", "capped", "none"} {
		mode, err := ParseOverrideMode(name)
		require.NoError(t, err)
		require.Equal(t, name, mode.String())
	}
	_, err := ParseOverrideMode("Any")
	require.Error(t, err)
}

func TestCapped(t *testing.T) {
	global, err := ParseHeader("max_attempts=3, base_delay=0.5, retry_status_codes=(502 503), timeout=10, hedge=2")
	require.NoError(t, err)
	p := DefaultPolicy()
	p = p.Merge(global)
	require.NoError(t, p.Validate(builtin))
	for header, want := range map[string]string{
		"max_attempts=2":                 "max_attempts=2",
		"max_attempts=9":                 "max_attempts=3",
		"base_delay=0.1":                 "base_delay=0.5",
		"base_delay=2":                   "base_delay=2",
		"max_backoff_delay=1":            "max_backoff_delay=30",
		"backoff_strategy=fixed":         "max_attempts=3",
		"jitter":                         "max_attempts=3",
		"retry_status_codes=(500 503)":   "retry_status_codes=(503)",
		"retry_non_idempotent":           "retry_non_idempotent=?0",
		"timeout=5":                      "timeout=5",
		"timeout=50":                     "timeout=10",
		"timeout=null":                   "timeout=10",
		"failover_delay=0":               "failover_delay=null",
		"hedge=off":                      "hedge=off",
		"hedge=1":                        "hedge=2",
		"hedge=p95":                      "hedge=2",
		"hedge=3":                        "hedge=3",
		"hedge_budget=0.9, hedge=3":      "hedge=3",
		"hedge_budget=0.01":              "hedge_budget=0.01",
		"multiplier=1.1, max_attempts=1": "max_attempts=1",
	} {
		o, err := ParseHeader(header)
		require.NoError(t, err)
		got, err := p.Overridden(o, OverrideCapped, builtin)
		require.NoError(t, err, header)
		w, err := ParseHeader(want)
		require.NoError(t, err)
		wanted := p.Merge(w)
		require.NoError(t, wanted.Validate(builtin))
		require.True(t, got.Equal(&wanted), "%s: %+v, not %+v", header, got, wanted)
	}
	bad := 11
	_, err = p.Overridden(Override{MaxAttempts: &bad}, OverrideCapped, builtin)
	require.Error(t, err, "what is out of range is refused, not capped")
}

// A capped policy costs no more than the global one, whatever the override.
func TestCappedModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) Policy {
			p := DefaultPolicy()
			p.MaxAttempts = rapid.IntRange(1, 10).Draw(t, name+" attempts")
			p.BaseDelay = rapid.Float64Range(0.1, 60).Draw(t, name+" delay")
			p.RetryStatusCodes = rapid.SliceOf(rapid.SampledFrom([]int{408, 429, 500, 502, 503})).Draw(t, name+" codes")
			p.RetryNonIdempotent = rapid.Bool().Draw(t, name+" non-idempotent")
			p.Hedge.P95 = rapid.Bool().Draw(t, name+" hedge")
			if rapid.Bool().Draw(t, name+" timeout") {
				seconds := rapid.Float64Range(0.1, 100).Draw(t, name+" seconds")
				p.Timeout = &seconds
			}
			p.computeFields()
			return p
		}
		global, asked := draw("global"), draw("asked")
		got := global.capPolicy(asked)
		got.computeFields()
		require.LessOrEqual(t, got.MaxAttempts, min(global.MaxAttempts, asked.MaxAttempts))
		require.GreaterOrEqual(t, got.BaseDelay, global.BaseDelay)
		for _, code := range got.RetryStatusCodes {
			require.True(t, global.RetriesStatus(code) && asked.RetriesStatus(code))
		}
		require.False(t, got.RetryNonIdempotent && !global.RetryNonIdempotent)
		require.False(t, !got.Hedge.Off() && global.Hedge.Off())
		if global.Timeout != nil {
			require.LessOrEqual(t, *got.Timeout, *global.Timeout)
		}
		require.NoError(t, got.Validate(builtin))
	})
}
