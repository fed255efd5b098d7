package wasmhost

import (
	"fmt"
	"runtime"
	"time"
)

// clock measures the time of calls.
type clock struct {
	now func() time.Time
	cpu func() time.Duration // returns the CPU time of the calling thread
}

func systemClock() clock { return clock{now: time.Now, cpu: threadTime()} }

// quickest calls f up to three times and returns the shortest CPU time. The first call may be slower than the later
// ones, because caches are cold and memory is new. The parameter enough is a CPU time: after a call that used no more
// than this, f is not called again.
func (c clock) quickest(enough time.Duration, f func() error) (least time.Duration, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for i := range 3 {
		began := c.cpu()
		if err := f(); err != nil {
			return 0, err
		}
		took := c.cpu() - began
		if least = min(least, took); i == 0 {
			least = took
		}
		if least <= enough {
			break
		}
	}
	return least, nil
}

// share is the divisor of the timeouts in the checks of a module. In a check, a call may use at most 1/share of its
// timeout. Calls in the gateway may be more expensive, and its machine may be slower.
const share = 4

// slowShare defines a slow call: a call that takes more than 1/slowShare of its CPU timeout. This is twice the time
// that a call may take in a check of the module.
const slowShare = 2

// SlowLimit returns the CPU time above which a call of score, backoff or judge counts as slow.
func (m *Module) SlowLimit() time.Duration { return m.limits.CallTimeout / slowShare }

// Slow returns the number of slow calls. Calls that use little fuel are not measured, and therefore not counted.
func (m *Module) Slow() uint64 { return m.slow.Load() }

// CheckCall makes a call of a module that is being checked. It returns the call's error, or an
// error if the call uses more than a quarter of Limits.CallTimeout.
func (m *Module) CheckCall(call func() error) error {
	return m.checkTime("a call", "plugins.call_timeout", m.limits.CallTimeout, call)
}

// CheckStart is like CheckCall, but for the start of an instance, with Limits.StartTimeout.
func (m *Module) CheckStart(start func() error) error {
	return m.checkTime("the start", "the timeout of a start", m.limits.StartTimeout, start)
}

func (m *Module) checkTime(what, name string, timeout time.Duration, f func() error) error {
	enough := timeout / share
	took, err := m.clock.quickest(enough, f)
	if err == nil && took > enough {
		err = fmt.Errorf("%s took %v of CPU time; it may take %v when it is tried, a quarter of %s (%v)",
			what, took.Round(10*time.Microsecond), enough, name, timeout)
	}
	return err
}
