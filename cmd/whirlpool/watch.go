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
	// settle is how long the folders must be quiet before files are read: an
	// editor writes in several steps. A folder that is never quiet (somebody's
	// log file lies in it) is waited for up to maxSettle.
	settle    = 50 * time.Millisecond
	maxSettle = 250 * time.Millisecond
	// lookEvery finds changes on file systems that announce none, and on machines
	// that have no inotify instance left (containers share them).
	lookEvery = 2 * time.Second
)

// watch reloads when the configuration, or a file that it names, changes: in
// place, by rename, or behind a symbolic link (Kubernetes). Folders are
// watched, not files; without w they are only looked at now and then.
func watch(g *gateway, w *fsnotify.Watcher) (stop func()) {
	var events <-chan fsnotify.Event
	var failures <-chan error
	if w != nil {
		events, failures = w.Events, w.Errors
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	seen := g.fingerprint(w)
	go func() {
		defer wg.Done()
		look := time.NewTicker(lookEvery)
		defer look.Stop()
		quiet := time.NewTimer(time.Hour)
		defer quiet.Stop()
		// It looks once more after a reload: the files may have changed while they
		// were being read, or be other files now. Not at once: a list that is written
		// for a minute would be read without a pause.
		check := func() {
			if now := g.fingerprint(w); now != seen {
				seen = now
				g.reload()
				quiet.Reset(maxSettle)
			}
		}
		var since time.Time // of the first event not looked at yet
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

// fingerprint tells the watched files' state, and has w, if there is one, watch
// their folders: those they are named in, and those they lie in.
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
		if target, err := filepath.EvalSymlinks(path); err == nil { // of a link, where it leads
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
