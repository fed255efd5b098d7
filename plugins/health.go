package plugins

import (
	"errors"
	"log/slog"
	"time"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// DefaultMaxFaults is how many of a plugin's last calls may fail before it is quarantined: as many as that among ten
// times as many calls, in a row or not.
const DefaultMaxFaults = 5

// windowFactor is the length of the window in which faults are counted, as a multiple of Options.MaxFaults.
const windowFactor = 10

// Calls that find no free instance (wasmhost.ReasonBusy) fail many at a time when the machine stalls. A plugin is
// quarantined if at least half of its calls, and at least busyLeast, fail in this way for busyFor.
const (
	busyFor   = 2 * time.Second
	busyLeast = 20 // of them
)

// health decides on the quarantine of one version. It is guarded by plugin.faultMu. A call that succeeds costs it
// nothing: it works with the number of calls at each fault.
type health struct {
	recent []uint64 // the numbers of the calls that failed last, at most MaxFaults; a ring
	next   int      // the oldest in recent, once it is full

	busy      uint64 // faults of the period in which most calls are busy
	busyCall  uint64 // number of the call that began it
	busySince time.Time
}

// fault counts the failure of call number n, and reports whether max faults lie within the last windowFactor*max
// calls.
func (h *health) fault(n uint64, max int) bool {
	if len(h.recent) < max {
		h.recent = append(h.recent, n)
	} else {
		h.recent[h.next] = n
		h.next = (h.next + 1) % max
	}
	return len(h.recent) == max && int64(n-h.recent[h.next]) < int64(max)*windowFactor
}

// busyFault counts a call that found no instance, and reports whether that has been the rule for busyFor.
func (h *health) busyFault(n uint64, now time.Time) bool {
	if calls := n - h.busyCall + 1; h.busy == 0 || 2*(h.busy+1) < calls {
		h.busy, h.busyCall, h.busySince = 0, n, now
	}
	h.busy++
	return h.busy >= busyLeast && now.Sub(h.busySince) >= busyFor
}

// logEvery is the shortest time between two log records about a plugin's faults. Each has the numbers of faults and
// calls since the one before.
const logEvery = 10 * time.Second

// succeeded counts a call.
func (p *plugin) succeeded() { p.calls.Add(1) }

// fault counts a call of a version that failed, and quarantines the version after too many.
func (p *plugin) fault(v *version, err error) {
	reason := wasmhost.ReasonTrap
	var f *wasmhost.Fault
	if errors.As(err, &f) {
		reason = f.Reason
	}
	n := p.calls.Add(1)
	p.faults.Add(1)

	p.faultMu.Lock()
	now := p.registry.now()
	quarantine := false
	if v.source != SourceBuiltin && !v.quarantined.Load() {
		if errors.Is(err, wasmhost.ErrBusy) {
			quarantine = v.health.busyFault(n, now)
		} else {
			quarantine = v.health.fault(n, p.registry.opts.MaxFaults)
		}
		v.quarantined.Store(quarantine)
	}
	p.byReason[reason]++
	p.lastError, p.lastFault = err.Error(), now
	log := quarantine || now.Sub(p.logged) >= logEvery
	var attrs []any
	if log {
		all := counts{p.calls.Load(), p.faults.Load()}
		attrs = []any{slog.String("plugin", p.name), slog.String("reason", reason), slog.Any("error", err),
			slog.Uint64("faults", all.faults-p.atLog.faults), slog.Uint64("calls", all.calls-p.atLog.calls)}
		p.logged, p.atLog = now, all
	}
	p.faultMu.Unlock()
	switch {
	case quarantine:
		p.registry.opts.Log.Error("plugin quarantined: the built-in answers for it", attrs...)
	case log:
		p.registry.opts.Log.Warn("plugin failed: the built-in answered", attrs...)
	}
}

// release ends the quarantine of the current version.
func (p *plugin) release() {
	p.faultMu.Lock()
	defer p.faultMu.Unlock()
	v := p.current.Load()
	v.health = health{}
	v.quarantined.Store(false)
}
