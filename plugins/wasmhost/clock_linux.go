package wasmhost

import (
	"time"

	"golang.org/x/sys/unix"
)

// threadTime reads the CPU time that the calling thread has used.
func threadTime() func() time.Duration {
	return func() time.Duration {
		var t unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // fails for no clock that Linux has
		return time.Duration(t.Nano())
	}
}
