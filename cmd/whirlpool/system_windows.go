package main

import "os"

// openFileLimit returns 0: on Windows, a process cannot read a limit on the number of its open files.
func openFileLimit() int { return 0 }

// inode returns 0: on Windows, an os.FileInfo has no file number. A replaced file is recognized by its time and size.
func inode(os.FileInfo) uint64 { return 0 }

// closeOnExec does nothing. On Windows, a child process does not inherit sockets by their number.
func closeOnExec(int) {}
