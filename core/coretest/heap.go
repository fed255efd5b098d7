package coretest

import "runtime"

// LiveHeap returns the number of bytes of the live objects in the heap.
func LiveHeap() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // frees the objects that a sync.Pool holds
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
