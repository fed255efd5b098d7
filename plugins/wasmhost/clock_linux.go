package wasmhost

import (
	"syscall"
	"time"
	"unsafe"
)

// clockThread is CLOCK_THREAD_CPUTIME_ID of clock_gettime(2).
const clockThread = 3

// threadTime reads the CPU time that the calling thread has used.
func threadTime() func() time.Duration {
	return func() time.Duration {
		var t syscall.Timespec
		// This call cannot fail for a clock that Linux has.
		syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockThread, uintptr(unsafe.Pointer(&t)), 0)
		return time.Duration(t.Nano())
	}
}
