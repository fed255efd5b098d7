package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/changes"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/state"
)

// The names of files in the state folder.
const (
	changesFile = "changes"
	idsFile     = "ids" // the ids of proxies without an id in the configuration
	historyFile = "metrics"
)

// keeper keeps the state folder open. Its zero value has no folder.
type keeper struct {
	dir     *state.Dir
	store   *state.Store // changes by the API
	ids     *state.Store // automatic ids
	history *history
	once    sync.Once
}

// The longest time for which openState waits for another process to unlock the folder. This is usually the
// previous process of the gateway, which unlocks the folder when it begins to drain. The wait is long if the
// previous process has passed its sockets, because this process then probably starts before the other one
// gets its signal.
const (
	shortWait = time.Second
	longWait  = time.Minute
)

// openState locks and opens the folder of state.dir. If that fails for a configured folder, openState returns
// an error. If it fails for the default folder, openState logs a warning, and the gateway keeps no state.
func openState(cfg *config.Config, wait time.Duration, log *slog.Logger) (*keeper, error) {
	if cfg.State.Dir == "" {
		if cfg.State.Implied {
			log.Info("changes by the API last until the restart: there is no configuration file, and no state.dir")
		}
		return &keeper{}, nil
	}
	k, err := lockState(cfg.State.Dir, wait, log)
	switch {
	case err == nil:
		return k, nil
	case !cfg.State.Implied:
		return nil, withPlaces(cfg, &core.KeyError{Key: "state.dir", Value: cfg.State.Dir, Err: err})
	}
	log.Warn("the default of state.dir cannot be used: changes by the API that it has are not in force, and new ones "+
		"last until the restart", slog.Any("error", err))
	return &keeper{}, nil
}

func lockState(path string, wait time.Duration, log *slog.Logger) (*keeper, error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	dir, err := state.Lock(ctx, path, func(e *state.InUseError) {
		log.Info("waiting for another process to leave the state folder", slog.String("dir", e.Dir),
			slog.String("owner", e.Owner), slog.Duration("at_most", wait))
	})
	if err != nil {
		return nil, err
	}
	k := &keeper{dir: dir}
	if k.store, err = openStore(path, changesFile, log); err != nil {
		k.close()
		return nil, err
	}
	if k.ids, err = openStore(path, idsFile, log); err != nil {
		log.Error("automatic ids of proxies are not kept: after a restart, proxies with the same host and port may "+
			"have each other's ids; move the file away", slog.Any("error", err))
	}
	return k, nil
}

func openStore(dir, file string, log *slog.Logger) (*state.Store, error) {
	s, damage, err := state.OpenStore(state.OS{}, dir, file, time.Now)
	if err == nil {
		logDamage(log, filepath.Join(dir, file), damage)
	}
	return s, err
}

func logDamage(log *slog.Logger, file string, d state.Damage) {
	if d.Found() {
		log.Error("a file of the state folder was damaged: its undamaged lines are in use; look in the copy for what "+
			"is lost, make lost changes again, and delete the copy", slog.String("file", file),
			slog.String("copy", d.Kept), slog.Any("damaged_lines", d.Lines), slog.Int("missing_lines", d.Missing))
	}
}

// path returns the folder, or "".
func (k *keeper) path() string {
	if k.dir == nil {
		return ""
	}
	return k.dir.Path
}

// restore restores the metrics and the usage of users of earlier processes, and saves both from now on.
func (k *keeper) restore(e *engine.Engine, log *slog.Logger) {
	if k.dir == nil {
		return
	}
	h, err := openHistory(filepath.Join(k.dir.Path, historyFile), e, log)
	if err != nil {
		log.Warn("metrics and the usage of users do not survive the restart", slog.Any("error", err))
		return
	}
	k.history = h
}

// freeze makes later changes by the API fail with state.ErrClosed, because another process may already have
// read the recorded changes. Metrics are still saved.
func (k *keeper) freeze() {
	for _, s := range []*state.Store{k.store, k.ids} {
		if s != nil {
			s.Close()
		}
	}
}

// wanted reports whether another process waits for the folder.
func (k *keeper) wanted() bool { return k.dir != nil && k.dir.Wanted() }

// close writes the remaining metrics and closes the files, and unlocks the folder for other
// processes.
func (k *keeper) close() {
	k.once.Do(func() {
		if k.dir == nil {
			return
		}
		if k.history != nil {
			k.history.close()
		}
		k.freeze()
		k.dir.Unlock()
	})
}

// history saves metrics and the usage of users in a journal.
type history struct {
	journal *state.Journal
	engine  *engine.Engine
	log     *slog.Logger
	used    map[access.Used]struct{} // usage as it is in the journal
	failing bool                     // the last save failed
	stop    chan struct{}
	done    chan struct{}
}

// counts is an entry of the journal. It has the counters that have changed since the previous entry.
type counts struct {
	metrics.Saved
	Users []access.Used `json:"users,omitempty"`
}

// historyEvery is the interval at which metrics are saved. If the process is killed, the counts of at most this time
// are lost.
const historyEvery = 5 * time.Second

// openHistory restores metrics and the usage of users from a file, and saves both in it from now on.
func openHistory(file string, e *engine.Engine, log *slog.Logger) (*history, error) {
	h := &history{engine: e, log: log, stop: make(chan struct{}), done: make(chan struct{})}
	var damage state.Damage
	var err error
	used := map[string]access.Used{}
	h.journal, damage, err = state.OpenJournal(state.OS{}, file, time.Now(), func(entry []byte) error {
		var c counts
		if err := json.Unmarshal(entry, &c); err != nil {
			return err
		}
		e.Metrics().Restore(&c.Saved)
		for _, u := range c.Users {
			used[u.Name] = u
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	logDamage(log, file, damage)
	e.Metrics().EndRestore()
	e.RestoreUsage(slices.Collect(maps.Values(used)))
	h.used = asSet(e.Usage())
	go h.run()
	return h, nil
}

func asSet(list []access.Used) map[access.Used]struct{} {
	set := make(map[access.Used]struct{}, len(list))
	for _, u := range list {
		set[u] = struct{}{}
	}
	return set
}

func (h *history) run() {
	defer close(h.done)
	tick := time.NewTicker(historyEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.save()
		case <-h.stop:
			h.save()
			h.journal.Close()
			return
		}
	}
}

// save writes the counters that have changed.
func (h *history) save() {
	all := h.journal.NeedsReplace()
	used := h.engine.Usage()
	c := counts{Saved: h.engine.Metrics().Save(all)}
	for _, u := range used {
		if _, saved := h.used[u]; all || !saved {
			c.Users = append(c.Users, u)
		}
	}
	if c.Empty() && len(c.Users) == 0 && !all {
		return
	}
	h.used = asSet(used) // after an error, the next save writes all of them
	entry, err := json.Marshal(c)
	switch {
	case err != nil:
	case all:
		err = h.journal.Replace([][]byte{entry})
	default:
		err = h.journal.Append(entry)
	}
	if err != nil && !h.failing {
		h.log.Warn("metrics and the usage of users cannot be saved in the state folder", slog.Any("error", err))
	}
	h.failing = err != nil
}

func (h *history) close() {
	close(h.stop)
	<-h.done
}

// formerStateDir is the default of state.dir in version 0.1.
const formerStateDir = "whirlpool-data"

// warnOfFormerDir warns of uploads in the former default of state.dir.
func warnOfFormerDir(cfg *config.Config, log *slog.Logger) {
	if !cfg.State.Implied {
		return
	}
	if _, err := os.Stat(filepath.Join(formerStateDir, "plugins")); err == nil {
		log.Warn("uploaded plugins in "+formerStateDir+" are not used: it is no longer the default of state.dir; set "+
			"state.dir to it, or remove it", slog.String("dir", cfg.State.Dir))
	}
}

// configuration returns the part of cfg that can be changed through the API.
func configuration(cfg *config.Config) changes.Configuration {
	return changes.Configuration{
		Proxies: cfg.Engine().Proxies, Policy: cfg.Policy,
		Plugins: map[string]string{
			changes.UseFirst: cfg.Selection.First, changes.UseRetry: cfg.Selection.Retry,
			changes.UseJudge: cfg.Selection.Judge,
		},
	}
}
