//go:build !(linux && (amd64 || arm64))

package socket

// Watcher does nothing on this system. On Linux it detects that peers close their connections.
type Watcher struct{}

// Watch is the watch of one connection.
type Watch struct{}

// NewWatch returns a watch that cannot be started.
func (*Watcher) NewWatch(*Conn, func()) *Watch { return &Watch{} }

// Start returns false: this system has no epoll.
func (*Watch) Start() bool { return false }

// Stop has no effect.
func (*Watch) Stop() {}

// Close has no effect.
func (*Watcher) Close() {}
