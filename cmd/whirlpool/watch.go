package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// The files are checked when nothing has changed in the watched folders for settleTime, because an editor writes a
	// file in several steps. In folders that change all the time, the files are checked after maxSettleTime.
	settleTime    = 50 * time.Millisecond
	maxSettleTime = 250 * time.Millisecond
	// listSettleTime is the time for which a proxy list must be unchanged before it is read, because a program may take
	// seconds to write a long list. A list that changes all the time is read after maxListWait.
	listSettleTime = 500 * time.Millisecond
	maxListWait    = 30 * time.Second
	// checkInterval is the interval at which the files are checked without a notification: some file systems send none,
	// and a machine may have no free inotify instance.
	checkInterval = 2 * time.Second
)

// watchFiles reloads the configuration when the configuration file or a file that it names changes. It detects that a
// file was written, that another file was renamed to it, and that a symbolic link got another target (Kubernetes). For
// this, it watches the folders of the files. If w is nil, it only checks the files at the interval checkInterval. The
// parameter loaded is the fingerprint of the files at the time when they were loaded.
func watchFiles(g *gateway, w *fsnotify.Watcher, loaded string) (stop func()) {
	var events <-chan fsnotify.Event
	var failures <-chan error
	if w != nil {
		events, failures = w.Events, w.Errors
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	g.fingerprint(w) // makes w watch the folders
	go func() {
		defer wg.Done()
		ticker := time.NewTicker(checkInterval)
		defer ticker.Stop()
		settled := time.NewTimer(0) // first check immediately: files may have changed since loaded was computed
		defer settled.Stop()
		// After each reload, the files are checked again, because they may have changed while the reload read them.
		// This check waits for maxSettleTime. Without this wait, a file that a program writes for a minute would cause
		// one reload after the other.
		var waitStart time.Time // start of the wait for a list that still changes; zero if none does
		check := func() {
			if current := g.fingerprint(w); current != loaded {
				if remaining := g.listSettleRemaining(); remaining > 0 && (waitStart.IsZero() ||
					time.Since(waitStart) < maxListWait) {
					if waitStart.IsZero() {
						waitStart = time.Now()
					}
					settled.Reset(remaining)
					return
				}
				loaded, waitStart = current, time.Time{}
				g.reload()
				settled.Reset(maxSettleTime)
			}
		}
		var firstEvent time.Time // time of the first event since the last check
		for {
			select {
			case <-done:
				return
			case <-events:
				if firstEvent.IsZero() {
					firstEvent = time.Now()
				}
				settled.Reset(min(settleTime, max(maxSettleTime-time.Since(firstEvent), 0)))
			case err := <-failures:
				g.log.Debug("watching files", slog.Any("error", err))
			case <-settled.C:
				firstEvent = time.Time{}
				check()
			case <-ticker.C:
				check()
			}
		}
	}()
	return func() {
		close(done)
		wg.Wait()
		if w != nil {
			w.Close()
		}
	}
}

// listSettleRemaining returns the time until all files that the configuration names, such as proxy lists, have been
// unchanged for listSettleTime. It ignores modification times in the future.
func (g *gateway) listSettleRemaining() (remaining time.Duration) {
	g.mu.Lock()
	files := g.cfg.Files()
	g.mu.Unlock()
	for _, path := range files {
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		if age := time.Since(info.ModTime()); age >= 0 && age < listSettleTime {
			remaining = max(remaining, listSettleTime-age)
		}
	}
	return remaining
}

// fingerprintSince returns the fingerprint of the watched files. If a file has changed since start, it returns "",
// which differs from every fingerprint.
func (g *gateway) fingerprintSince(start time.Time) string {
	sum := g.fingerprint(nil)
	for _, path := range append(g.cfg.Files(), g.source.File) {
		if info, err := os.Stat(path); err == nil && !info.ModTime().Before(start) &&
			!info.ModTime().After(time.Now()) {
			return ""
		}
	}
	return sum
}

// fingerprint returns the path, size, modification time and inode number of each watched file. If w is not nil, w
// watches the folders of the files and, for symbolic links, the folders of their targets.
func (g *gateway) fingerprint(w *fsnotify.Watcher) string {
	g.mu.Lock()
	files := append(g.cfg.Files(), g.source.File)
	g.mu.Unlock()
	watch := func(path string) {
		if w != nil {
			w.Add(filepath.Dir(path))
		}
	}
	sum := ""
	for _, path := range files {
		if path == "" {
			continue
		}
		watch(path)
		if target, err := filepath.EvalSymlinks(path); err == nil { // path may be a symbolic link
			watch(target)
		}
		if info, err := os.Stat(path); err == nil {
			sum += fmt.Sprintf("%s %d %d %v\n", path, info.Size(), info.ModTime().UnixNano(), inode(info))
		} else {
			sum += path + " missing\n"
		}
	}
	return sum
}
