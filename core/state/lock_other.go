//go:build !windows && (!unix || solaris || illumos || aix)

package state

import "os"

// openLock opens a file. It locks nothing, because this system has no lock that ends with the
// process.
func openLock(path string) (*os.File, error) { return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) }
