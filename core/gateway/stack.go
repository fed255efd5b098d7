package gateway

import "runtime"

// growStack grows the stack of the calling goroutine to at least 16 KiB. A request needs more than 8 KiB of stack,
// most of it in the WebAssembly runtime. When a stack grows, the Go runtime visits every frame on the stack. If the
// stack grew deep inside a request, this would cost about 8 µs per connection. Where growStack is called, the stack
// has only a few frames.
//
//go:noinline
func growStack() {
	var space [9 << 10]byte
	runtime.KeepAlive(&space)
}
