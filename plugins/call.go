package plugins

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// Scorer is a scorer by name, whatever its module is at the moment. It
// implements core.Scorer and core.Tolerance.
type Scorer struct{ plugin, fallback *plugin }

// Score implements core.Scorer: a plugin that fails is answered for by the
// built-in.
func (s *Scorer) Score(c core.Candidates, scores []float64) error {
	p := s.plugin
	for v := p.current.Load(); !v.quarantined.Load(); v = p.current.Load() {
		start := p.watch()
		err := v.module.Score(c, scores)
		p.watched(start)
		if err == nil {
			p.wentWell(&v.inARow)
			return nil
		}
		if errors.Is(err, wasmhost.ErrNotReady) {
			break
		}
		if !errors.Is(err, wasmhost.ErrClosed) { // else it was replaced this very moment
			p.fault(v, &v.inARow, err)
			break
		}
		if p.current.Load() == v { // closed, but not replaced: it has left the registry
			break
		}
	}
	if s.fallback == nil || s.fallback == p {
		return errQuarantined
	}
	return s.fallback.current.Load().module.Score(c, scores)
}

// Tolerance implements core.Tolerance.
func (s *Scorer) Tolerance() float64 {
	v := s.plugin.current.Load()
	if (v.quarantined.Load() || !v.module.Ready()) && s.fallback != nil {
		v = s.fallback.current.Load()
	}
	return v.module.Tolerance()
}

// Backoff is a backoff by name, whatever its module is at the moment.
type Backoff struct{ plugin, fallback *plugin }

// Delay implements core.Backoff: a plugin that fails is answered for by the
// built-in.
func (b *Backoff) Delay(r *core.BackoffRequest) (float64, error) {
	p := b.plugin
	for v := p.current.Load(); !v.quarantined.Load(); v = p.current.Load() {
		start := p.watch()
		d, err := v.module.Delay(r)
		p.watched(start)
		if err == nil {
			p.wentWell(&v.inARow)
			return d, nil
		}
		if errors.Is(err, wasmhost.ErrNotReady) {
			break
		}
		if !errors.Is(err, wasmhost.ErrClosed) {
			p.fault(v, &v.inARow, err)
			break
		}
		if p.current.Load() == v { // closed, but not replaced: it has left the registry
			break
		}
	}
	if b.fallback == nil || b.fallback == p {
		return 0, errQuarantined
	}
	return b.fallback.current.Load().module.Delay(r)
}

// call runs f with the plugin's module, if it may serve.
func (p *plugin) call(f func(*wasmhost.Module) error) {
	v := p.current.Load()
	if v.quarantined.Load() {
		return
	}
	start := p.watch()
	err := f(v.module)
	p.watched(start)
	switch {
	case err == nil:
		p.wentWell(&v.deaf)
	case !errors.Is(err, wasmhost.ErrClosed) && !errors.Is(err, wasmhost.ErrNotReady):
		p.fault(v, &v.deaf, err)
	}
}

// timedEvery: one call of so many is timed and stands for all of them, because
// reading the clock twice takes longer than a small plugin does. It is odd, so
// that answers and observations have their turns where they alternate.
const timedEvery = 17

// watch begins to time a call, or returns the zero time for one that is not.
func (p *plugin) watch() time.Time {
	if p.calls.Load()%timedEvery != 0 {
		return time.Time{}
	}
	return p.registry.now()
}

func (p *plugin) watched(start time.Time) {
	if !start.IsZero() {
		p.spent.Add(timedEvery * int64(p.registry.now().Sub(start)))
	}
}

// wentWell counts a call that did, and ends its row of failures.
func (p *plugin) wentWell(row *atomic.Int64) {
	p.calls.Add(1)
	if row.Load() != 0 {
		row.Store(0)
	}
}

// logEvery is the shortest time between two log records about a plugin's faults.
// Each says how many of how many calls have failed since the one before.
const logEvery = 10 * time.Second

// fault counts a call of a version that failed; after too many in a row the
// version is quarantined. Failures of answers and of observations are two rows of
// their own: otherwise a plugin that answers well, but fails at every
// observation, would never be quarantined. A call that found every instance at
// work counts in neither.
func (p *plugin) fault(v *version, row *atomic.Int64, err error) {
	reason := wasmhost.ReasonTrap
	var f *wasmhost.Fault
	if errors.As(err, &f) {
		reason = f.Reason
	}
	p.calls.Add(1)
	p.faulted.Add(1)
	quarantine := false
	if v.source != SourceBuiltin && !errors.Is(err, wasmhost.ErrBusy) {
		quarantine = row.Add(1) >= int64(p.registry.opts.MaxFaults) && !v.quarantined.Swap(true)
	}

	p.mu.Lock()
	now := p.registry.now()
	p.byReason[reason]++
	p.lastError, p.lastFault = err.Error(), now
	log := quarantine || now.Sub(p.burst) >= logEvery
	var attrs []any
	if log {
		all := tally{p.calls.Load(), p.faulted.Load()}
		attrs = []any{slog.String("plugin", p.name), slog.String("reason", reason), slog.Any("error", err),
			slog.Uint64("faults", all.faults-p.told.faults), slog.Uint64("calls", all.calls-p.told.calls)}
		p.burst, p.told = now, all
	}
	p.mu.Unlock()
	switch {
	case quarantine:
		p.registry.opts.Log.Error("plugin quarantined: the built-in answers for it", attrs...)
	case log:
		p.registry.opts.Log.Warn("plugin failed: the built-in answered", attrs...)
	}
}
