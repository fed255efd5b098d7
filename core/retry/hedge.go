package retry

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Hedge is the time after which a first attempt without a response is hedged: a second attempt starts
// through another proxy, and the first good response wins (J. Dean, L. A. Barroso, The Tail at Scale, CACM
// 2013). The zero value is "off".
type Hedge struct {
	P95   bool    // hedge after the 95th percentile of the pool's latencies
	After float64 // after this number of seconds, 0.001 to 60; 0 if P95 is set, and for "off"
}

// DefaultHedgeBudget is the default of Policy.HedgeBudget.
const DefaultHedgeBudget = 0.05

const (
	hedgeOff = "off"
	hedgeP95 = "p95"
	minHedge = 0.001
	maxHedge = 60
)

// Off reports whether the policy has no hedges.
func (h Hedge) Off() bool { return h == Hedge{} }

// String returns the notation of the configuration: "off", "p95" or a number of seconds.
func (h Hedge) String() string {
	switch {
	case h.P95:
		return hedgeP95
	case h.Off():
		return hedgeOff
	}
	return strconv.FormatFloat(h.After, 'g', -1, 64)
}

// MarshalJSON implements json.Marshaler: the strings "off" and "p95", or a number of seconds.
func (h Hedge) MarshalJSON() ([]byte, error) {
	if h.P95 || h.Off() {
		return json.Marshal(h.String())
	}
	return json.Marshal(h.After)
}

// UnmarshalJSON implements json.Unmarshaler.
func (h *Hedge) UnmarshalJSON(b []byte) error {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	return h.DecodeValue(v)
}

var errHedge = errors.New(`must be "off", "p95" or 0.001 to 60 seconds`)

// DecodeValue implements strict.ValueDecoder. The range of a number is checked by Policy.Validate.
func (h *Hedge) DecodeValue(from any) (err error) {
	switch v := from.(type) {
	case string:
		switch v {
		case hedgeOff:
			*h = Hedge{}
			return nil
		case hedgeP95:
			*h = Hedge{P95: true}
			return nil
		}
		return errHedge
	case json.Number:
		h.After, err = v.Float64()
	case int64:
		h.After = float64(v)
	case float64:
		h.After = v
	default:
		return errHedge
	}
	if h.P95 = false; err != nil || h.After == 0 { // 0 would mean "off"
		return errHedge
	}
	return nil
}

func (h Hedge) validate() error {
	if h.P95 || h.Off() || h.After >= minHedge && h.After <= maxHedge {
		return nil
	}
	return &FieldError{"hedge", `must be "off", "p95" or 0.001 to 60 seconds, not ` + h.String(), "0.001 to 60"}
}

// HedgeKind is a kind of latency. Each kind has its own 95th percentile.
type HedgeKind uint8

// The kinds. The first latency ends with the head of a response, the second with an open tunnel. The
// third is the time in an open tunnel from the client's first bytes to the target's first bytes.
const (
	HedgeResponse HedgeKind = iota
	HedgeTunnel
	HedgeFirstByte
	hedgeKinds
)

// Hedging holds the hedge data that all requests share: the budget, and the latencies for "p95". The budget is a
// token bucket: each first attempt that may be hedged adds hedge_budget tokens, up to hedgeBurst, and a hedge takes
// one token. This limits the number of hedges per first attempt to hedge_budget. A Hedging is safe for concurrent
// use.
type Hedging struct {
	mu        sync.Mutex // guards the fields below
	tokens    int64      // in millionths
	latencies [hedgeKinds]latencies
}

const (
	token      = 1_000_000 // one token in millionths
	hedgeBurst = 10        // maximum number of tokens in the bucket
)

// minP95Delay is the shortest delay of a hedge with "p95", because timers are not much more accurate.
const minP95Delay = time.Millisecond

// Begin records a first attempt that may be hedged, and returns the delay of its hedge. The delay is 0 if p has "p95"
// and fewer than minLatencies latencies are recorded. ok is false if p has no hedges.
func (h *Hedging) Begin(p *Policy, kind HedgeKind) (delay time.Duration, ok bool) {
	if p.Hedge.Off() || p.HedgeBudget <= 0 {
		return 0, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tokens = min(h.tokens+int64(math.Floor(p.HedgeBudget*token)), hedgeBurst*token)
	return h.delay(p, kind), true
}

// Delay returns the delay that Begin would return, but records nothing.
func (h *Hedging) Delay(p *Policy, kind HedgeKind) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.delay(p, kind)
}

// delay returns the delay of a hedge, as Begin does. The caller holds mu.
func (h *Hedging) delay(p *Policy, kind HedgeKind) time.Duration {
	if !p.Hedge.P95 {
		return time.Duration(p.Hedge.After * float64(time.Second))
	}
	if p95 := h.latencies[kind].p95; p95 > 0 {
		return max(p95, minP95Delay)
	}
	return 0
}

// Add records the latency of a first attempt that may be hedged, for "p95". If the attempt lost to its hedge, latency
// is the time until the hedge won, which is longer than the delay of the hedge.
func (h *Hedging) Add(kind HedgeKind, latency time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.latencies[kind].add(latency)
}

// TryTakeHedge takes a token for a hedge. It returns false if the budget is spent.
func (h *Hedging) TryTakeHedge() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tokens < token {
		return false
	}
	h.tokens -= token
	return true
}

// ReturnHedge returns the token of a hedge that was not made.
func (h *Hedging) ReturnHedge() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tokens = min(h.tokens+token, hedgeBurst*token)
}

// latencies holds the last latencies of one kind, and their 95th percentile.
type latencies struct {
	ring [hedgeSamples]time.Duration
	n    int           // number of recorded latencies
	p95  time.Duration // as of the last computation; 0 before the first computation
}

const (
	hedgeSamples = 512 // number of latencies for the percentile; the standard error of its rank is 1 %
	hedgeEvery   = 32  // number of latencies between two computations
	minLatencies = 20  // number of latencies before the first computation
)

func (l *latencies) add(d time.Duration) {
	l.ring[l.n%hedgeSamples] = d
	if l.n++; l.n != minLatencies && l.n%hedgeEvery != 0 {
		return
	}
	sorted := l.ring
	known := sorted[:min(l.n, hedgeSamples)]
	slices.Sort(known)
	l.p95 = known[(len(known)*95+99)/100-1]
}
