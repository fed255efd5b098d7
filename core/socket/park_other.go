//go:build !(linux && (amd64 || arm64))

package socket

import "time"

// Park returns false: this system has no epoll.
func (*Conn) Park() bool { return false }

// Parked returns false.
func Parked(*Conn) bool { return false }

// Unpark does nothing.
func (*Conn) Unpark() error { return nil }

// AwaitParked does nothing.
func (*Conn) AwaitParked(*Watcher, func() time.Duration, <-chan struct{}) error { return nil }
