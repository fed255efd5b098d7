package plugins

import (
	"errors"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

var errQuarantined = errors.New("the plugin is quarantined")

// Scorer calls the scorer plugin with a given name. It implements core.Scorer and core.Tolerance.
// The plugin's module may be replaced between two calls.
type Scorer struct{ plugin, fallback *plugin }

var (
	_ core.Scorer    = (*Scorer)(nil)
	_ core.Tolerance = (*Scorer)(nil)
	_ core.Backoff   = (*Backoff)(nil)
	_ core.Judge     = (*Judge)(nil)
)

// Score implements core.Scorer. If the plugin fails, the built-in scorer computes the scores.
func (s *Scorer) Score(c core.Candidates, scores []float64) error {
	p := s.plugin
	for v := p.current.Load(); !v.quarantined.Load(); v = p.current.Load() {
		start := p.beginTiming()
		err := v.module.Score(c, scores)
		p.endTiming(start)
		if err == nil {
			p.succeeded(v)
			return nil
		}
		if !p.failed(v, err) {
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

// Backoff calls the backoff plugin with a given name. The plugin's module may be replaced between
// two calls.
type Backoff struct{ plugin, fallback *plugin }

// Delay implements core.Backoff. If the plugin fails, the built-in backoff computes the delay.
func (b *Backoff) Delay(r *core.BackoffRequest) (float64, error) {
	p := b.plugin
	if !p.observer.called.Load() {
		p.observer.called.Store(true)
	}
	for v := p.current.Load(); !v.quarantined.Load(); v = p.current.Load() {
		start := p.beginTiming()
		d, err := v.module.Delay(r)
		p.endTiming(start)
		if err == nil {
			p.succeeded(v)
			return d, nil
		}
		if !p.failed(v, err) {
			break
		}
	}
	if b.fallback == nil || b.fallback == p {
		return 0, errQuarantined
	}
	return b.fallback.current.Load().module.Delay(r)
}

// Judge calls the judge plugin with a given name. The plugin's module may be replaced between two
// calls. No built-in replaces a plugin that fails: the response is then treated as if there were no
// judge.
type Judge struct{ plugin *plugin }

// ExcerptSpec implements core.Judge. It returns nil while the plugin is quarantined or not ready.
func (j *Judge) ExcerptSpec() *core.ExcerptSpec {
	v := j.plugin.current.Load()
	if v.quarantined.Load() {
		return nil
	}
	return v.module.ExcerptSpec()
}

// Rule implements core.Judge.
func (j *Judge) Rule(r *core.JudgeRequest, e *core.Excerpt) (core.Ruling, error) {
	p := j.plugin
	for v := p.current.Load(); !v.quarantined.Load(); v = p.current.Load() {
		start := p.beginTiming()
		ruling, err := v.module.Rule(r, e)
		p.endTiming(start)
		if err == nil {
			p.succeeded(v)
			return ruling, nil
		}
		if !p.failed(v, err) {
			return core.Ruling{}, err
		}
	}
	return core.Ruling{}, errQuarantined
}

// failed counts a failed call of the version v, unless v is closed or not ready. The parameter err is the
// error of the call. The result is true if v was closed because another module has replaced it. The caller then calls
// the new module.
func (p *plugin) failed(v *version, err error) (again bool) {
	switch {
	case errors.Is(err, wasmhost.ErrNotReady):
		return false
	case errors.Is(err, wasmhost.ErrClosed):
		return p.current.Load() != v // if false, the plugin has been removed
	}
	p.fault(v, err)
	return false
}

// timedEvery is the number of successive calls of which one is timed: reading the clock twice takes longer than a
// call of a small plugin. The time of the timed call counts for all of these calls. The number is odd, so that both
// functions are timed if calls of score and observe alternate.
const timedEvery = 17

// beginTiming returns the start time of a call, or the zero time if the call is not timed.
func (p *plugin) beginTiming() time.Time {
	if p.calls.Load()%timedEvery != 0 {
		return time.Time{}
	}
	return p.registry.now()
}

func (p *plugin) endTiming(start time.Time) {
	if !start.IsZero() {
		p.spent.Add(timedEvery * int64(p.registry.now().Sub(start)))
	}
}
