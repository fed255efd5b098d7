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
			p.countSuccess(v)
			return nil
		}
		if !p.countFailure(v, err) {
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
	if (v.quarantined.Load() || !v.module.IsReady()) && s.fallback != nil {
		v = s.fallback.current.Load()
	}
	return v.module.Tolerance()
}

// Backoff calls the backoff plugin with a given name. The plugin's module may be replaced between two calls.
type Backoff struct{ plugin, fallback *plugin }

// Delay implements core.Backoff. If the plugin fails, the built-in backoff computes the delay.
func (b *Backoff) Delay(r *core.BackoffRequest) (float64, error) {
	p := b.plugin
	if !p.observer.wasCalled.Load() {
		p.observer.wasCalled.Store(true)
	}
	for v := p.current.Load(); !v.quarantined.Load(); v = p.current.Load() {
		start := p.beginTiming()
		d, err := v.module.Delay(r)
		p.endTiming(start)
		if err == nil {
			p.countSuccess(v)
			return d, nil
		}
		if !p.countFailure(v, err) {
			break
		}
	}
	if b.fallback == nil || b.fallback == p {
		return 0, errQuarantined
	}
	return b.fallback.current.Load().module.Delay(r)
}

// Judge calls the judge plugin with a given name. The plugin's module may be replaced between two calls. If the plugin
// fails, the response is treated as if there were no judge.
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
			p.countSuccess(v)
			return ruling, nil
		}
		if !p.countFailure(v, err) {
			return core.Ruling{}, err
		}
	}
	return core.Ruling{}, errQuarantined
}

// countFailure counts a failed call of the version v, unless v is closed or not ready. It returns true if v was
// replaced and therefore closed; the caller then calls the new module.
func (p *plugin) countFailure(v *version, err error) (replaced bool) {
	switch {
	case errors.Is(err, wasmhost.ErrNotReady):
		return false
	case errors.Is(err, wasmhost.ErrClosed):
		return p.current.Load() != v // if false, the plugin has been removed
	}
	p.countFault(v, err)
	return false
}

// Of timingInterval consecutive calls, one is timed. Reading the clock twice takes longer than a call of a small
// plugin, so not all calls are timed. The number is odd because calls of the exports "score" and "observe" may
// alternate: an even number would select only calls of one export.
const timingInterval = 17

// beginTiming returns the start time of a call, or the zero time if the call is not timed.
func (p *plugin) beginTiming() time.Time {
	if p.calls.Load()%timingInterval != 0 {
		return time.Time{}
	}
	return p.registry.now()
}

func (p *plugin) endTiming(start time.Time) {
	if !start.IsZero() {
		p.timeSpent.Add(timingInterval * int64(p.registry.now().Sub(start)))
	}
}
