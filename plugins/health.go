package plugins

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// DefaultMaxFaults is the default of Options.MaxFaults: a plugin is quarantined when MaxFaults of its last
// windowFactor*MaxFaults calls have failed.
const DefaultMaxFaults = 5

// windowFactor is the number of calls among which faults are counted, as a multiple of Options.MaxFaults.
const windowFactor = 10

// If the machine stalls, many simultaneous calls find no free instance (wasmhost.ReasonBusy). Such failures lead to a
// quarantine only if they continue for busyTime: at least half of the calls, and at least minBusyCalls, must fail in
// this way.
const (
	busyTime     = 2 * time.Second
	minBusyCalls = 20
)

// faultWindow decides when one version of a plugin is quarantined. Calls have numbers. faultWindow stores only the
// numbers of failed calls, so that a successful call needs no access to it. plugin.faultMu guards the fields.
type faultWindow struct {
	failedCalls []uint64 // the numbers of the last failed calls; a ring of MaxFaults
	next        int      // index of the oldest number once failedCalls is full

	busyCount uint64 // calls since busyCall that found no free instance
	busyCall  uint64 // number of the first call of a period in which at least half of the calls found no free instance
	busySince time.Time
}

// addFault records that call number n has failed. It reports whether at least max of the last windowFactor*max calls
// have failed.
func (w *faultWindow) addFault(n uint64, max int) bool {
	if len(w.failedCalls) < max {
		w.failedCalls = append(w.failedCalls, n)
	} else {
		w.failedCalls[w.next] = n
		w.next = (w.next + 1) % max
	}
	return len(w.failedCalls) == max && int64(n-w.failedCalls[w.next]) < int64(max)*windowFactor
}

// addBusyFault counts call number n, which found no free instance. It reports whether the version must be quarantined.
func (w *faultWindow) addBusyFault(n uint64, now time.Time) bool {
	if calls := n - w.busyCall + 1; w.busyCount == 0 || 2*(w.busyCount+1) < calls {
		w.busyCount, w.busyCall, w.busySince = 0, n, now
	}
	w.busyCount++
	return w.busyCount >= minBusyCalls && now.Sub(w.busySince) >= busyTime
}

// faultLogInterval is the minimum time between two log records about a plugin's faults.
const faultLogInterval = 10 * time.Second

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

// reportFault logs a FaultReport and passes it to Options.OnFault.
func (r *Registry) reportFault(f FaultReport) {
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

// countSuccess counts a successful call. It also counts, as faults, the slow calls of the module that have not been
// counted yet.
func (p *plugin) countSuccess(v *version) {
	n := p.calls.Add(1)
	slow := v.module.SlowCalls()
	if seen := v.countedSlowCalls.Load(); slow != seen && v.countedSlowCalls.CompareAndSwap(seen, slow) {
		err := &wasmhost.Fault{Reason: wasmhost.ReasonSlow, Err: fmt.Errorf(
			"the call took more than %v of CPU time, half of its limit", v.module.SlowLimit())}
		for range slow - seen {
			p.recordFault(v, n, err)
		}
	}
}

// countFault counts a failed call of a version, and quarantines the version if too many calls have failed.
func (p *plugin) countFault(v *version, err error) { p.recordFault(v, p.calls.Add(1), err) }

// recordFault records that call number n of a version failed with err.
func (p *plugin) recordFault(v *version, n uint64, err error) {
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
			quarantine = v.faults.addBusyFault(n, now)
		} else {
			quarantine = v.faults.addFault(n, p.registry.opts.MaxFaults)
		}
		v.quarantined.Store(quarantine)
	}
	p.faultsByReason[reason]++
	p.lastError, p.lastFaultAt = err.Error(), now
	due := quarantine || now.Sub(p.lastLogged) >= faultLogInterval
	report := FaultReport{Plugin: p.name, At: now, Reason: reason, Err: err, Quarantined: quarantine}
	if due {
		all := counts{p.calls.Load(), p.faults.Load()}
		report.Faults, report.Calls = all.faults-p.countsAtLog.faults, all.calls-p.countsAtLog.calls
		p.lastLogged, p.countsAtLog = now, all
	}
	p.faultMu.Unlock()
	if due {
		p.registry.reportFault(report)
	}
}

func (p *plugin) endQuarantine() {
	p.faultMu.Lock()
	defer p.faultMu.Unlock()
	v := p.current.Load()
	v.faults = faultWindow{}
	v.quarantined.Store(false)
}
