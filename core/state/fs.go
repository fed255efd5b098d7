package state

import (
	"errors"
	"io"
	"os"
	"runtime"
)

// FS has the functions of a file system that a Journal uses. Tests use an FS that loses all data that were not synced.
type FS interface {
	// Open opens a file as os.OpenFile does.
	Open(name string, flag int, perm os.FileMode) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	// SyncDir writes the entries of a folder to the disk: files that were created, renamed or removed in it.
	SyncDir(name string) error
}

// File is an open file of an FS.
type File interface {
	io.ReadWriteCloser
	Sync() error
	Truncate(size int64) error
}

// OS is the file system of the machine.
type OS struct{}

var _ FS = OS{}

// Open implements FS.
func (OS) Open(name string, flag int, perm os.FileMode) (File, error) {
	return os.OpenFile(name, flag, perm)
}

// Rename implements FS.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove implements FS.
func (OS) Remove(name string) error { return os.Remove(name) }

// SyncDir implements FS. On Windows it does nothing, because a folder cannot be synced there.
func (OS) SyncDir(name string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
