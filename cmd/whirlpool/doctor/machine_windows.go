package doctor

import (
	"errors"

	"golang.org/x/sys/windows"
)

// addressInUse is the error of listen if another socket already uses the address.
const addressInUse = windows.WSAEADDRINUSE

// showListeners is the command that shows which program listens at which port.
const showListeners = "netstat -abno"

// fileModes is false because the permission bits of a file do not show which users may read the file: Windows uses
// access control lists instead.
const fileModes = false

// freeSpace returns the number of bytes that this process may still write to the volume of a folder.
func freeSpace(dir string) (uint64, error) {
	name, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, err
	}
	var free uint64
	err = windows.GetDiskFreeSpaceEx(name, &free, nil, nil)
	return free, err
}

// openFileLimit returns errors.ErrUnsupported: on Windows, a process cannot read a limit on the number of its open
// files.
func openFileLimit() (soft, hard uint64, err error) { return 0, 0, errors.ErrUnsupported }
