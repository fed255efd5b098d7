package gateway

import "runtime"

// growStack grows the stack of the calling goroutine to at least 16 KiB, which the WebAssembly runtime needs. Growth
// deep inside a request would cost about 8 µs per connection, because the Go runtime visits every frame. growStack is
// called after the first head has been read, so that a client with an unfinished head does not cost these 16 KiB.
//
//go:noinline
func growStack() {
	var space [9 << 10]byte
	runtime.KeepAlive(&space)
}
