package main

import (
	"math"
	"os"
	"syscall"
)

// openFiles returns the limit on open file descriptors (ulimit -n); 0 if it is unknown.
func openFiles() int {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil || l.Cur > math.MaxInt32 {
		return 0
	}
	return int(l.Cur)
}

// inode returns the inode number, which differs between a file and its replacement.
func inode(info os.FileInfo) uint64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Ino
	}
	return 0
}
