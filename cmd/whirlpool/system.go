package main

import (
	"math"
	"os"
	"syscall"
)

// openFiles is how many descriptors the process may have open (ulimit -n); 0
// when that is not known.
func openFiles() int {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil || l.Cur > math.MaxInt32 {
		return 0
	}
	return int(l.Cur)
}

// inode tells one file from another of the same name.
func inode(info os.FileInfo) uint64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Ino
	}
	return 0
}
