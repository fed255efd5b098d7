package retry

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestHedgeInHeaders(t *testing.T) {
	for value, want := range map[string]Hedge{
		"hedge=p95": {P95: true}, `hedge="p95"`: {P95: true}, "hedge=off": {}, "hedge=0.25": {After: 0.25},
		"hedge=2": {After: 2}, `{"hedge":"p95"}`: {P95: true}, `{"hedge":0.25}`: {After: 0.25},
	} {
		o, err := ParseHeader(value)
		require.NoError(t, err, value)
		assert.Equal(t, want, *o.Hedge, value)
	}
	for _, value := range []string{"hedge", "hedge=p99", "hedge=0", `hedge=""`, "hedge=(1 2)", "hedge_budget=x",
		`{"hedge":true}`, `{"hedge":0}`, `{"hedge":null}`, `{"hedge":"1"}`} {
		_, err := ParseHeader(value)
		require.Error(t, err, value)
	}
}

func TestHedgeRanges(t *testing.T) {
	for seconds, ok := range map[float64]bool{0.001: true, 60: true, 0.0009: false, 60.1: false, -1: false} {
		p := DefaultPolicy()
		p.Hedge.After = seconds
		assert.Equal(t, ok, p.Validate(builtin) == nil, seconds)
	}
	for budget, ok := range map[float64]bool{0: true, 1: true, -0.1: false, 1.1: false} {
		p := DefaultPolicy()
		p.HedgeBudget = budget
		assert.Equal(t, ok, p.Validate(builtin) == nil, budget)
	}
}

func TestHedgeAsJSON(t *testing.T) {
	for want, h := range map[string]Hedge{`"off"`: {}, `"p95"`: {P95: true}, `0.25`: {After: 0.25}} {
		got, err := json.Marshal(h)
		require.NoError(t, err)
		assert.Equal(t, want, string(got))
	}
}

// A request may have fewer hedges than the global policy permits, but not more.
func TestAnOverrideStaysWithinTheHedgeBudget(t *testing.T) {
	global := policy(t, func(p *Policy) { p.HedgeBudget = 0.1 })
	for budget, ok := range map[float64]bool{0: true, 0.1: true, 0.2: false} {
		p, err := global.Overridden(Override{Hedge: &Hedge{P95: true}, HedgeBudget: &budget}, OverrideAny, builtin)
		if !ok {
			require.EqualError(t, err, "hedge_budget must be 0 to 0.1, the global policy's, not 0.2")
			continue
		}
		require.NoError(t, err)
		assert.True(t, p.Hedge.P95)
		assert.Equal(t, budget, p.HedgeBudget)
	}
	_, err := global.Overridden(Override{MaxAttempts: new(int)}, OverrideAny, builtin)
	require.ErrorContains(t, err, "max_attempts")
}

// A policy without hedges has the same hash as before hedges existed. Other hedges lead to other hashes.
func TestHedgesInHashes(t *testing.T) {
	off := policy(t, nil)
	assert.Equal(t, off.Hash(), policy(t, func(p *Policy) { p.HedgeBudget = 0.2 }).Hash())
	assert.False(t, off.Equal(policy(t, func(p *Policy) { p.HedgeBudget = 0.2 })))
	assert.NotEqual(t, off.Hash(), policy(t, func(p *Policy) { p.Hedge.P95 = true }).Hash())
}

// The number of hedges is at most the number of first attempts times the hedge budget, and at most
// hedgeBurst in a row.
func TestTheHedgeBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &Hedging{}
		p := DefaultPolicy()
		p.Hedge.P95, p.HedgeBudget = true, float64(rapid.IntRange(0, 100).Draw(t, "budget"))/100
		first, hedges, inARow := 0, 0, 0
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			if rapid.IntRange(0, 3).Draw(t, "hedge") > 0 {
				if _, ok := h.Begin(&p, HedgeResponse); ok {
					first++
				}
				inARow = 0
			} else if h.TryTakeHedge() {
				hedges++
				inARow++
			}
			require.LessOrEqual(t, float64(hedges), p.HedgeBudget*float64(first)+1e-6)
			require.LessOrEqual(t, inARow, hedgeBurst)
		}
	})
	h, p := &Hedging{}, policy(t, func(p *Policy) { p.Hedge.After = 1 })
	for range 20 {
		require.False(t, h.TryTakeHedge())
		h.Begin(p, HedgeResponse)
	}
	require.True(t, h.TryTakeHedge(), "5 % of 20")
	require.False(t, h.TryTakeHedge())
	off := policy(t, func(p *Policy) { p.Hedge.After, p.HedgeBudget = 1, 0 })
	_, ok := h.Begin(off, HedgeResponse)
	require.False(t, ok)
}

func TestTheDelayOfAHedge(t *testing.T) {
	h, p := &Hedging{}, policy(t, func(p *Policy) { p.Hedge.P95 = true })
	delay := func() time.Duration { return h.Delay(p, HedgeResponse) }
	for i := range minLatencies {
		require.Zero(t, delay())
		h.Add(HedgeResponse, time.Duration(i+1)*time.Millisecond)
	}
	require.Equal(t, 19*time.Millisecond, delay())
	require.Zero(t, h.Delay(p, HedgeTunnel), "each kind has its own")
	for i := range 2 * hedgeSamples { // the last latencies are 513 to 1024 ms
		h.Add(HedgeResponse, time.Duration(i+1)*time.Millisecond)
	}
	require.InDelta(t, 999, delay().Milliseconds(), 32)
	for range 2 * hedgeSamples {
		h.Add(HedgeResponse, time.Microsecond)
	}
	require.Equal(t, minP95Delay, delay())
	require.Equal(t, 250*time.Millisecond, h.Delay(policy(t, func(p *Policy) { p.Hedge.After = 0.25 }), HedgeResponse))
}
