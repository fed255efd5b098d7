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
	// settle is the time without changes in the folders after which files are read, because an editor writes
	// in several steps. If the folders keep changing (a log file may be in one), files are read after
	// maxSettle.
	settle    = 50 * time.Millisecond
	maxSettle = 250 * time.Millisecond
	// listQuiet is the time for which a proxy list must be unchanged before it is read, because a program may
	// take seconds to write a long list. A list that keeps changing is read after maxListWait.
	listQuiet   = 500 * time.Millisecond
	maxListWait = 30 * time.Second
	// lookEvery is the interval of checks without notifications. They are necessary because some file systems
	// send no notifications, and a machine may have no inotify instance left (containers share them).
	lookEvery = 2 * time.Second
)

// watch reloads the configuration when the configuration file, or a file that it names, changes: in place, by
// rename, or behind a symbolic link (Kubernetes). It watches folders, not files. If w is nil, it only checks
// the files every lookEvery. seen is the fingerprint of the configuration in force.
func watch(g *gateway, w *fsnotify.Watcher, seen string) (stop func()) {
	var events <-chan fsnotify.Event
	var failures <-chan error
	if w != nil {
		events, failures = w.Events, w.Errors
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	g.fingerprint(w) // watches the folders
	go func() {
		defer wg.Done()
		look := time.NewTicker(lookEvery)
		defer look.Stop()
		quiet := time.NewTimer(0) // the files may have changed since seen was computed
		defer quiet.Stop()
		// Each reload is followed by another check, because the files may have changed while they were read. A pause
		// precedes that check; otherwise a file that is written for a minute would be read all the time.
		var waiting time.Time // time of the first change of lists that still change and have not been read
		check := func() {
			if now := g.fingerprint(w); now != seen {
				if rest := g.listsChanging(); rest > 0 && (waiting.IsZero() || time.Since(waiting) < maxListWait) {
					if waiting.IsZero() {
						waiting = time.Now()
					}
					quiet.Reset(rest)
					return
				}
				seen, waiting = now, time.Time{}
				g.reload()
				quiet.Reset(maxSettle)
			}
		}
		var since time.Time // time of the first event since the last check
		for {
			select {
			case <-done:
				return
			case <-events:
				if since.IsZero() {
					since = time.Now()
				}
				quiet.Reset(min(settle, max(maxSettle-time.Since(since), 0)))
			case err := <-failures:
				g.log.Debug("watching files", slog.Any("error", err))
			case <-quiet.C:
				since = time.Time{}
				check()
			case <-look.C:
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

// listsChanging returns the time until all proxy lists will have been unchanged for listQuiet, if none
// changes again. It returns 0 if they already have been. It ignores a modification time in the future.
func (g *gateway) listsChanging() (rest time.Duration) {
	g.mu.Lock()
	files := g.cfg.Files()
	g.mu.Unlock()
	for _, path := range files {
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		if age := time.Since(info.ModTime()); age >= 0 && age < listQuiet {
			rest = max(rest, listQuiet-age)
		}
	}
	return rest
}

// fingerprintSince returns the fingerprint of the files that were loaded at the time began or later. If a file has
// changed meanwhile, it returns "", which is different from every fingerprint.
func (g *gateway) fingerprintSince(began time.Time) string {
	sum := g.fingerprint(nil)
	for _, path := range append(g.cfg.Files(), g.source.File) {
		if info, err := os.Stat(path); err == nil && !info.ModTime().Before(began) &&
			!info.ModTime().After(time.Now()) {
			return ""
		}
	}
	return sum
}

// fingerprint returns the state of the watched files. If w is not nil, it also watches the folders of the
// files, and the folders that symbolic links lead to.
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
		if target, err := filepath.EvalSymlinks(path); err == nil { // the target of a symbolic link
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
