package upstream

import (
	"net/netip"
	"time"
)

// CheckReport is the result of a proxy's last health check.
type CheckReport struct {
	At          time.Duration // end of the check (Pool.Elapsed)
	Passed      bool
	Fault       string        // why the check has failed; "" if it has passed
	Latency     time.Duration // until the end of the response; 0 if the check has failed
	Exit        netip.Addr    // the exit address of the last check that has found one; invalid if unknown
	Intercepted bool          // the proxy has presented its own certificate for an https:// URL
}

// LastCheck returns the result of the last health check; nil if there was none.
func (u *Upstream) LastCheck() *CheckReport {
	if x := u.attemptFields.Load(); x != nil {
		return x.lastCheck.Load()
	}
	return nil
}

// SetLastCheck sets the result of the last health check; nil for none. A proxy that has not served a request
// is chosen last while its checks fail.
func (u *Upstream) SetLastCheck(r *CheckReport) {
	var before *CheckReport
	if r != nil || u.attemptFields.Load() != nil {
		before = u.ensureAttemptFields().lastCheck.Swap(r)
	}
	if r != nil && r.Exit.IsValid() && (before == nil || before.Exit != r.Exit) {
		u.exitChanged()
	}
	failed := r != nil && !r.Passed
	if u.flags.set(checkFailed, failed) || r != nil {
		u.SetReached(!failed)
	}
}

// AcquireCheck returns a lease for a health check. The check does not count toward max_in_flight and does not change
// the statistics. If the breaker is half-open, the check is its probe. AcquireCheck returns false if the breaker admits
// no attempt, or if the proxy is draining.
func (u *Upstream) AcquireCheck(now time.Time) (Lease, bool) {
	if u.Draining() {
		return Lease{}, false
	}
	permit, ok := u.breaker.Acquire()
	if !ok {
		return Lease{}, false
	}
	return Lease{Proxy: u, permit: permit, began: max(u.Elapsed(now), 1), placeReleased: true, isCheck: true}, true
}

// Probe reports whether the lease is the probe of a half-open breaker.
func (l *Lease) Probe() bool { return l.permit.IsProbe() }
