package plugins

import (
	"errors"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

var errQuarantined = errors.New("the plugin is quarantined")

// Scorer is a scorer by name, whatever its module is at the moment. It implements core.Scorer and core.Tolerance.
type Scorer struct{ plugin, fallback *plugin }

var (
	_ core.Scorer    = (*Scorer)(nil)
	_ core.Tolerance = (*Scorer)(nil)
	_ core.Backoff   = (*Backoff)(nil)
)

// Score implements core.Scorer. Where the plugin fails, the built-in answers.
func (s *Scorer) Score(c core.Candidates, scores []float64) error {
	p := s.plugin
	for v := p.current.Load(); !v.quarantined.Load(); v = p.current.Load() {
		start := p.beginTiming()
		err := v.module.Score(c, scores)
		p.endTiming(start)
		if err == nil {
			p.succeeded()
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

// Backoff is a backoff by name, whatever its module is at the moment.
type Backoff struct{ plugin, fallback *plugin }

// Delay implements core.Backoff. Where the plugin fails, the built-in answers.
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
			p.succeeded()
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

// failed handles the error of a call, and reports whether to call again, since the module has just been replaced.
func (p *plugin) failed(v *version, err error) (again bool) {
	switch {
	case errors.Is(err, wasmhost.ErrNotReady):
		return false
	case errors.Is(err, wasmhost.ErrClosed):
		return p.current.Load() != v // else the plugin has left the registry
	}
	p.fault(v, err)
	return false
}

// timedEvery: one call of this many is timed and stands for all of them, because two readings of the clock take
// longer than a small plugin. It is odd, so that answers and observations are both timed where they alternate.
const timedEvery = 17

// beginTiming returns the zero time for a call that is not timed.
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
