//go:build !linux

package wasmhost

import "time"

// threadTime returns a function that reads the real time, because the CPU time of a thread cannot
// be read on this system.
func threadTime() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}
