package gateway

import "runtime"

// growStack grows the stack of the calling goroutine to at least 16 KiB, which the WebAssembly runtime needs. To grow
// it deep inside a request would cost about 8 µs per connection, because the Go runtime visits every frame. It is
// called after the first head has been read, so that a client with an unfinished head does not cost these 16 KiB.
//
//go:noinline
func growStack() {
	var space [9 << 10]byte
	runtime.KeepAlive(&space)
}
