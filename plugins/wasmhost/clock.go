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

// minCPUTime returns the shortest CPU time of up to three calls of f. It stops as soon as a call takes at most the
// target. The first call may be slower than later ones, because caches are cold and memory is new.
func (c clock) minCPUTime(target time.Duration, f func() error) (shortest time.Duration, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for i := range 3 {
		start := c.cpu()
		if err := f(); err != nil {
			return 0, err
		}
		duration := c.cpu() - start
		if shortest = min(shortest, duration); i == 0 {
			shortest = duration
		}
		if shortest <= target {
			break
		}
	}
	return shortest, nil
}

// When a module is checked, a call may use at most 1/checkShare of its timeout. Later calls may be more expensive, and
// the machine of the gateway may be slower.
const checkShare = 4

// A call is slow if it takes more than 1/slowShare of its CPU timeout. This is twice as much as a check permits
// (checkShare).
const slowShare = 2

// SlowLimit returns the CPU time above which a call of the export "score", "backoff" or "judge" counts as slow.
func (m *Module) SlowLimit() time.Duration { return m.limits.CallTimeout / slowShare }

// SlowCalls returns the number of slow calls. Calls that use little fuel are not measured.
func (m *Module) SlowCalls() uint64 { return m.slowCalls.Load() }

// CheckCall runs a trial call of a module. It returns the call's error, or an error if the call takes more than a
// quarter of Limits.CallTimeout.
func (m *Module) CheckCall(call func() error) error {
	return m.checkTime("a call", "plugins.call_timeout", m.limits.CallTimeout, call)
}

// CheckStart is like CheckCall, but for the start of an instance, with Limits.StartTimeout.
func (m *Module) CheckStart(start func() error) error {
	return m.checkTime("the start", "the timeout of a start", m.limits.StartTimeout, start)
}

func (m *Module) checkTime(what, name string, timeout time.Duration, f func() error) error {
	enough := timeout / checkShare
	took, err := m.clock.minCPUTime(enough, f)
	if err == nil && took > enough {
		err = fmt.Errorf("%s took %v of CPU time; it may take %v when it is tried, a quarter of %s (%v)",
			what, took.Round(10*time.Microsecond), enough, name, timeout)
	}
	return err
}
