package upstream

import (
	"net/netip"
	"time"
)

// CheckReport is the result of a proxy's last health check.
type CheckReport struct {
	At          time.Duration // its end (Pool.Elapsed)
	Passed      bool
	Fault       string        // why it has not passed; "" if it has
	Latency     time.Duration // until the end of the response; 0 unless it passed
	Exit        netip.Addr    // from which the proxy connects to targets, as last stated; invalid if unknown
	Intercepted bool          // the proxy presents a certificate of its own for an https:// URL
}

// LastCheck returns the result of the last health check; nil if there was none.
func (u *Upstream) LastCheck() *CheckReport { return u.lastCheck.Load() }

// SetLastCheck sets the result of the last health check; nil for none. While a proxy that has not served a
// request fails its checks, it is chosen last.
func (u *Upstream) SetLastCheck(r *CheckReport) {
	u.lastCheck.Store(r)
	failed := r != nil && !r.Passed
	if u.checkFailed.Swap(failed) || r != nil {
		u.SetReached(!failed)
	}
}

// AcquireCheck returns a lease for a health check, which takes no place in flight and does not change the
// statistics. It is the probe of a half-open breaker. It returns false if the breaker admits nothing or
// the proxy is draining.
func (u *Upstream) AcquireCheck(now time.Time) (Lease, bool) {
	if u.Draining() {
		return Lease{}, false
	}
	permit, ok := u.breaker.Acquire()
	if !ok {
		return Lease{}, false
	}
	return Lease{Proxy: u, permit: permit, began: max(now.Sub(u.epoch), 1), parted: true, check: true}, true
}

// Probe reports whether the lease is the probe of a half-open breaker.
func (l *Lease) Probe() bool { return l.permit.Probe() }
