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
	// settle is the time that must pass without changes in the watched folders before the files are checked, because
	// an editor writes a file in several steps. If the folders never stay unchanged for that long (for example,
	// because a log file is in one of them), the files are checked after maxSettle.
	settle    = 50 * time.Millisecond
	maxSettle = 250 * time.Millisecond
	// listQuiet is the time for which a proxy list must be unchanged before it is read, because a program may take
	// seconds to write a long list. A list that never stays unchanged for that long is read after maxListWait.
	listQuiet   = 500 * time.Millisecond
	maxListWait = 30 * time.Second
	// lookEvery is the interval at which the files are checked even if there is no notification of a change. These
	// checks are necessary because some file systems send no notifications. In addition, a machine may have no free
	// inotify instance, because its containers share them.
	lookEvery = 2 * time.Second
)

// watch reloads the configuration when the configuration file changes, or a file that the configuration names. It finds
// a change in place, by rename, or behind a symbolic link (Kubernetes). For this, it watches the folders of the files.
// If w is nil, there are no notifications, and watch only checks the files at the interval lookEvery. The parameter
// seen is the fingerprint of the files that are in force.
func watch(g *gateway, w *fsnotify.Watcher, seen string) (stop func()) {
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
		look := time.NewTicker(lookEvery)
		defer look.Stop()
		quiet := time.NewTimer(0) // first check immediately: files may have changed since seen was computed
		defer quiet.Stop()
		// After each reload the files are checked again, because they may have changed while the reload read them.
		// The wait before this check is maxSettle. Without the wait, a file that a program writes for a minute would
		// be read all the time.
		var waiting time.Time // time since which a changed list waits, because it still changes; zero if none waits
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

// listsChanging returns the time that must still pass until the files that the configuration names, such as proxy
// lists, have been unchanged for listQuiet. It is 0 if they have already been unchanged for that long. listsChanging
// ignores modification times in the future.
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

// fingerprintSince returns the fingerprint of the watched files. The parameter began is a time before the gateway
// loaded the files. If a file has changed since that time, fingerprintSince returns "", which is different from every
// fingerprint.
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

// fingerprint returns a text that changes when a watched file changes: it has the path, size, modification time and
// inode number of each file. If w is not nil, fingerprint also makes w watch the folders of the files, and the
// folders of the targets if a file is a symbolic link.
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
