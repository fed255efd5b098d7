package plugins

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// DefaultMaxFaults is the default of Options.MaxFaults: a plugin is quarantined when MaxFaults of
// its last windowFactor*MaxFaults calls have failed.
const DefaultMaxFaults = 5

// windowFactor is the number of calls in the window in which faults are counted, as a multiple of
// Options.MaxFaults.
const windowFactor = 10

// If the machine stalls, many simultaneous calls find no free instance (wasmhost.ReasonBusy). For this reason, such
// failures lead to a quarantine only if at least half of a plugin's calls, and at least busyLeast calls, fail in this
// way during the time busyFor.
const (
	busyFor   = 2 * time.Second
	busyLeast = 20 // calls
)

// health decides when one version of a plugin is quarantined. The calls are numbered, and health stores the numbers
// of the failed calls. For this reason a successful call changes nothing here. plugin.faultMu guards the fields.
type health struct {
	recent []uint64 // the numbers of the last failed calls; a ring of MaxFaults
	next   int      // index of the oldest number once recent is full

	busy      uint64 // calls since busyCall that found no free instance
	busyCall  uint64 // number of the first call of a period in which at least half of the calls found no free instance
	busySince time.Time
}

// fault counts the failure of call number n. It returns true if the number of faults within the last
// windowFactor*max calls has reached max.
func (h *health) fault(n uint64, max int) bool {
	if len(h.recent) < max {
		h.recent = append(h.recent, n)
	} else {
		h.recent[h.next] = n
		h.next = (h.next + 1) % max
	}
	return len(h.recent) == max && int64(n-h.recent[h.next]) < int64(max)*windowFactor
}

// busyFault counts call number n, which found no free instance. It returns true if at least half of the calls, and at
// least busyLeast calls, have failed in this way for the time busyFor.
func (h *health) busyFault(n uint64, now time.Time) bool {
	if calls := n - h.busyCall + 1; h.busy == 0 || 2*(h.busy+1) < calls {
		h.busy, h.busyCall, h.busySince = 0, n, now
	}
	h.busy++
	return h.busy >= busyLeast && now.Sub(h.busySince) >= busyFor
}

// logEvery is the minimum time between two log records about a plugin's faults. Each record has the numbers of faults
// and calls since the previous record.
const logEvery = 10 * time.Second

// FaultReport reports plugin faults of one plugin: failed calls, and slow calls (wasmhost.ReasonSlow).
type FaultReport struct {
	Plugin      string
	At          time.Time
	Reason      string // reason of the last failure: wasmhost.ReasonTrap and so on
	Err         error  // error of the last failure
	Faults      uint64 // failed and slow calls since the last report
	Calls       uint64 // all calls since the last report
	Quarantined bool   // the report's last fault has led to a quarantine
}

// report logs a FaultReport and passes it to Options.OnFault.
func (r *Registry) report(f FaultReport) {
	attrs := []any{slog.String("plugin", f.Plugin), slog.String("reason", f.Reason), slog.Any("error", f.Err),
		slog.Uint64("faults", f.Faults), slog.Uint64("calls", f.Calls)}
	switch {
	case f.Quarantined:
		r.opts.Log.Error("plugin quarantined: the built-in is called in its place", attrs...)
	case f.Reason == wasmhost.ReasonSlow:
		r.opts.Log.Warn("plugin is slow", attrs...)
	default:
		r.opts.Log.Warn("plugin failed: the built-in answered", attrs...)
	}
	if r.opts.OnFault != nil {
		r.opts.OnFault(f)
	}
}

// succeeded is called after a successful call. It counts a fault for each slow call of the module that has
// not been counted yet.
func (p *plugin) succeeded(v *version) {
	n := p.calls.Add(1)
	slow := v.module.Slow()
	if seen := v.slow.Load(); slow != seen && v.slow.CompareAndSwap(seen, slow) {
		err := &wasmhost.Fault{Reason: wasmhost.ReasonSlow, Err: fmt.Errorf(
			"the call took more than %v of CPU time, half of its limit", v.module.SlowLimit())}
		for range slow - seen {
			p.record(v, n, err)
		}
	}
}

// fault counts a failed call of a version. It quarantines the version if too many of its calls have failed
// (health).
func (p *plugin) fault(v *version, err error) { p.record(v, p.calls.Add(1), err) }

// record records that call number n of a version failed with err.
func (p *plugin) record(v *version, n uint64, err error) {
	reason := wasmhost.ReasonTrap
	var f *wasmhost.Fault
	if errors.As(err, &f) {
		reason = f.Reason
	}
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
	due := quarantine || now.Sub(p.logged) >= logEvery
	report := FaultReport{Plugin: p.name, At: now, Reason: reason, Err: err, Quarantined: quarantine}
	if due {
		all := counts{p.calls.Load(), p.faults.Load()}
		report.Faults, report.Calls = all.faults-p.atLog.faults, all.calls-p.atLog.calls
		p.logged, p.atLog = now, all
	}
	p.faultMu.Unlock()
	if due {
		p.registry.report(report)
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
