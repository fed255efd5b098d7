//go:build !windows

package main

import (
	"math"
	"os"
	"syscall"
)

// openFileLimit returns the limit on open file descriptors of this process (ulimit -n); 0 if the limit is unknown.
func openFileLimit() int {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil || l.Cur > math.MaxInt32 {
		return 0
	}
	return int(l.Cur)
}

// inode returns the inode number of a file. If another file replaces the file, the inode number changes.
func inode(info os.FileInfo) uint64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Ino
	}
	return 0
}

// closeOnExec makes the system close a file descriptor in child processes.
func closeOnExec(fd int) { syscall.CloseOnExec(fd) }
