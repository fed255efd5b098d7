package state

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Dir is a folder that this process has locked.
type Dir struct {
	Path string
	lock *os.File
}

// lockFile is the name of the file that a process locks to lock the folder. The text of the file names this process.
const lockFile = "lock"

// InUseError reports that another process has locked a folder.
type InUseError struct {
	Dir   string
	Owner string // such as "process 123 on host a"; "another process" if it is not known
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("%s is in use by %s; a state folder belongs to one process", e.Dir, e.Owner)
}

// lockPoll is the interval at which Lock tries again.
const lockPoll = 20 * time.Millisecond

// Lock creates the folder if it does not exist (mode 0700) and locks it for this process. If another process has locked
// it, Lock calls onWait (nil for none) and waits until that process unlocks it. During the wait, IsWanted returns true
// in the other process. If ctx ends first, the error is an *InUseError.
func Lock(ctx context.Context, path string, onWait func(*InUseError)) (*Dir, error) {
	if err := MakeDir(path); err != nil {
		return nil, err
	}
	var wanted *os.File // locked while this process waits
	defer func() {
		if wanted != nil {
			wanted.Close()
		}
	}()
	for {
		lock, err := openLock(filepath.Join(path, lockFile))
		if err == nil {
			host, _ := os.Hostname() // if there is no name, the process id is enough
			// If this fails, for example because the disk is full, the folder is locked nevertheless. The owner in an
			// InUseError is then "another process".
			_ = writeOwner(lock, fmt.Sprintf("process %d on host %s\n", os.Getpid(), host))
			return &Dir{Path: path, lock: lock}, nil
		}
		if !errors.Is(err, errLocked) {
			return nil, err
		}
		inUse := &InUseError{Dir: path, Owner: lockOwner(filepath.Join(path, lockFile))}
		if onWait != nil {
			onWait(inUse)
			onWait = nil
		}
		if wanted == nil { // may fail: a third process waits, too, or the other process unlocks the folder later
			wanted, _ = openLock(filepath.Join(path, wantedFile))
		}
		select {
		case <-ctx.Done():
			return nil, inUse
		case <-time.After(lockPoll):
		}
	}
}

// wantedFile is the name of the file that a process locks while it waits for the folder.
const wantedFile = "wanted"

// IsWanted reports whether another process waits for the folder.
func (d *Dir) IsWanted() bool {
	wanted, err := openLock(filepath.Join(d.Path, wantedFile))
	if err == nil {
		wanted.Close()
	}
	return errors.Is(err, errLocked)
}

// errLocked reports that another process has locked the file.
var errLocked = errors.New("the file is locked")

// MakeDir creates a folder (mode 0700) and its parents, and syncs them. The folder may exist.
func MakeDir(path string) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.IsDir():
		return &os.PathError{Op: "mkdir", Path: path, Err: errors.New("is a file, not a folder")}
	case err == nil:
		return nil
	}
	var missing []string
	for dir := path; errors.Is(err, fs.ErrNotExist); _, err = os.Stat(dir) {
		missing = append(missing, dir)
		dir = filepath.Dir(dir)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	for _, dir := range missing { // a new folder survives a power cut when its parent folder has been synced
		if err := (OS{}).SyncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	return nil
}

func writeOwner(lock *os.File, text string) error {
	if err := lock.Truncate(0); err != nil {
		return err
	}
	_, err := lock.WriteAt([]byte(text), 0)
	return err
}

// lockOwner returns the text of the lock file, which identifies the process that has locked it.
func lockOwner(path string) string {
	text, err := os.ReadFile(path)
	if name := strings.TrimSpace(string(text)); err == nil && name != "" && len(name) < 400 {
		return name
	}
	return "another process"
}

// Unlock makes the folder available to other processes.
func (d *Dir) Unlock() error { return d.lock.Close() }
