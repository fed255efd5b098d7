//go:build !linux

package wasmhost

import "time"

// threadTime reads the time by the clock, as the CPU time of a thread is not read
// on this system.
func threadTime() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}
