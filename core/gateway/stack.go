package gateway

import "runtime"

// growStack grows the stack of the calling goroutine to at least 16 KiB. A request needs more than 8 KiB, most of it
// in the WebAssembly runtime. When a stack grows, the Go runtime visits every frame on it. If this happened deep
// inside a request, it would cost about 8 µs per connection. At the place of this call there are only a few frames.
//
//go:noinline
func growStack() {
	var space [9 << 10]byte
	runtime.KeepAlive(&space)
}
