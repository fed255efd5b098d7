package wasmhost

import (
	"fmt"
	"runtime"
	"time"
)

// clock measures calls.
type clock struct {
	now func() time.Time
	cpu func() time.Duration // the CPU time of the calling thread
}

func systemClock() clock { return clock{now: time.Now, cpu: threadTime()} }

// quickest runs f up to three times, until it takes no more than enough of the
// thread's CPU time, and returns the least that it took: the caches are cold and
// the memory untouched the first time.
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

// share is the part of a timeout that a module may take when it is tried: a call
// that serves may be more expensive, and the machine slower.
const share = 4

// CheckCall runs a call of a module that is tried. The error is that of the call,
// or says that it takes more than a quarter of Limits.CallTimeout.
func (m *Module) CheckCall(call func() error) error {
	return m.checkTime("a call", "plugins.call_timeout", m.limits.CallTimeout, call)
}

// CheckStart is the same of the start of an instance and Limits.StartTimeout.
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
