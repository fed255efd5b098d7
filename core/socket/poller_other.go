//go:build !(linux && (amd64 || arm64))

package socket

import "time"

// LeavePoller returns false: this system has no epoll.
func (*Conn) LeavePoller() bool { return false }

// IsOffPoller returns false.
func IsOffPoller(*Conn) bool { return false }

// RejoinPoller does nothing.
func (*Conn) RejoinPoller() error { return nil }

// AwaitOffPoller does nothing.
func (*Conn) AwaitOffPoller(*Watcher, func() time.Duration, <-chan struct{}) error { return nil }
