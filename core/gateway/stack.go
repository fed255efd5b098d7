package gateway

import "runtime"

// growStack grows the stack of the calling goroutine to at least 16 KiB. A request needs more than 8 KiB, most of it
// in the WebAssembly runtime. When a stack grows, the Go runtime visits every frame on it. With the deep stack of a
// request this takes about 8 µs for each connection. Here there are only a few frames.
//
//go:noinline
func growStack() {
	var space [9 << 10]byte
	runtime.KeepAlive(&space)
}
