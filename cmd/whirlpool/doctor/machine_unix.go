//go:build !windows

package doctor

import "syscall"

// addressInUse is the error of listen if another socket already uses the address.
const addressInUse = syscall.EADDRINUSE

// showListeners is the command that shows which program listens at which port.
const showListeners = "ss -ltnp"

// fileModes is true because the permission bits of a file show which users may read the file.
const fileModes = true

// freeSpace returns the number of bytes that this process may still write to the file system of a folder.
func freeSpace(dir string) (uint64, error) {
	var fs syscall.Statfs_t
	err := syscall.Statfs(dir, &fs)
	return fs.Bavail * uint64(fs.Bsize), err
}

// openFileLimit returns the soft and the hard limit on open file descriptors of this process.
func openFileLimit() (soft, hard uint64, err error) {
	var l syscall.Rlimit
	err = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l)
	return l.Cur, l.Max, err
}
