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
	"github.com/whirlpool-proxy/whirlpool/core/ban"
	"github.com/whirlpool-proxy/whirlpool/core/changes"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/limit"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/state"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// The names of files in the state folder.
const (
	changesFile = "changes"
	idsFile     = "ids" // automatic ids: of proxies without an id in the configuration
	historyFile = "metrics"
)

// stateKeeper holds the open state folder and its files. The zero value has no state folder.
type stateKeeper struct {
	dir       *state.Dir
	store     *state.Store // changes by the API
	ids       *state.Store // automatic ids
	history   *history
	closeOnce sync.Once
}

// The maximum times for which openState waits until another process unlocks the folder. This is usually the previous
// process of the gateway, which unlocks the folder while it drains. longLockTimeout applies if sockets were passed to
// this process. This process then starts before the previous process gets the signal to drain.
const (
	shortLockTimeout = time.Second
	longLockTimeout  = time.Minute
)

// openState locks and opens the folder of state.dir. If that fails for a configured folder, it returns an error. If it
// fails for the default folder, it logs a warning, and the gateway keeps no state.
func openState(cfg *config.Config, lockTimeout time.Duration, log *slog.Logger) (*stateKeeper, error) {
	if cfg.State.Dir == "" {
		if cfg.State.Implied {
			log.Info("changes by the API last until the restart: there is no configuration file, and no state.dir")
		}
		return &stateKeeper{}, nil
	}
	k, err := lockState(cfg.State.Dir, lockTimeout, log)
	switch {
	case err == nil:
		return k, nil
	case !cfg.State.Implied:
		return nil, locateErrors(cfg, &core.KeyError{Key: "state.dir", Value: cfg.State.Dir, Err: err})
	}
	log.Warn("the default of state.dir cannot be used: changes by the API that it has are not in force, and new ones "+
		"last until the restart", slog.Any("error", err))
	return &stateKeeper{}, nil
}

func lockState(path string, timeout time.Duration, log *slog.Logger) (*stateKeeper, error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	dir, err := state.Lock(ctx, path, func(e *state.InUseError) {
		log.Info("waiting for another process to leave the state folder", slog.String("dir", e.Dir),
			slog.String("owner", e.Owner), slog.Duration("at_most", timeout))
	})
	if err != nil {
		return nil, err
	}
	k := &stateKeeper{dir: dir}
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
	if d.Exists() {
		log.Error("a file of the state folder was damaged: its undamaged lines are in use; look in the copy for what "+
			"is lost, make lost changes again, and delete the copy", slog.String("file", file),
			slog.String("copy", d.CopyPath), slog.Any("damaged_lines", d.Lines), slog.Int("missing_lines", d.Missing))
	}
}

// path returns the path of the state folder, or "" without a state folder.
func (k *stateKeeper) path() string {
	if k.dir == nil {
		return ""
	}
	return k.dir.Path
}

// The method restore restores what earlier processes have saved: metrics, usage of users, costs, bans, and used bytes
// of limits. From then on this process saves all these at intervals.
func (k *stateKeeper) restore(e *engine.Engine, log *slog.Logger) {
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

// The method freeze makes all later changes by the API fail with state.ErrClosed, because the next process may read the
// recorded changes. Metrics are still saved.
func (k *stateKeeper) freeze() {
	for _, s := range []*state.Store{k.store, k.ids} {
		if s != nil {
			s.Close()
		}
	}
}

// isWanted reports whether another process waits for the folder.
func (k *stateKeeper) isWanted() bool { return k.dir != nil && k.dir.IsWanted() }

// close saves the metrics, closes the files, and unlocks the folder for another process.
func (k *stateKeeper) close() {
	k.closeOnce.Do(func() {
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

// history saves metrics, usage of users, costs, bans, and used bytes of limits in a journal.
type history struct {
	journal    *state.Journal
	engine     *engine.Engine
	log        *slog.Logger
	savedUsage map[access.SavedUsage]struct{} // usage of users as it is in the journal
	savedBytes map[limit.SavedUsage]struct{}  // used bytes of limits as they are in the journal
	savedCosts costSets                       // costs as they are in the journal
	savedBans  []ban.Pair                     // bans as they are in the journal
	saveFailed bool                           // the last save failed
	stop       chan struct{}
	done       chan struct{}
}

// historyEntry is an entry of the journal: counters that have changed since the previous entries.
type historyEntry struct {
	metrics.Saved
	Users  []access.SavedUsage `json:"users,omitempty"`
	Costs  *engine.Costs       `json:"costs,omitempty"`
	Bans   *[]engine.SavedBan  `json:"bans,omitempty"`   // all bans (Engine.LastingBans); nil if unchanged
	Limits []limit.SavedUsage  `json:"limits,omitempty"` // usage of proxies and pairs with a limit on bytes
}

func (e *historyEntry) isEmpty() bool {
	return e.Saved.Empty() && len(e.Users) == 0 && len(e.Limits) == 0 && e.Costs == nil && e.Bans == nil
}

// saveInterval is the interval at which history saves the counters. A process that is killed loses the changes of at
// most one interval.
const saveInterval = 5 * time.Second

// openHistory restores metrics, usage of users, costs, bans, and used bytes of limits from a file. The history that it
// returns saves all these in the same file at intervals.
func openHistory(file string, e *engine.Engine, log *slog.Logger) (*history, error) {
	h := &history{engine: e, log: log, stop: make(chan struct{}), done: make(chan struct{})}
	var damage state.Damage
	var err error
	usage, bytes := map[string]access.SavedUsage{}, map[[2]string]limit.SavedUsage{}
	var bans []engine.SavedBan
	costs := [3]map[string]upstream.Cost{{}, {}, {}}
	h.journal, damage, err = state.OpenJournal(state.OS{}, file, time.Now(), func(entry []byte) error {
		var c historyEntry
		if err := json.Unmarshal(entry, &c); err != nil {
			return err
		}
		e.Metrics().Restore(&c.Saved)
		for _, u := range c.Users {
			usage[u.Name] = u
		}
		if c.Bans != nil {
			bans = *c.Bans
		}
		if c.Costs != nil {
			for i, list := range costLists(c.Costs) {
				for _, cost := range *list {
					costs[i][cost.Name] = cost
				}
			}
		}
		for _, u := range c.Limits {
			bytes[[2]string{u.Proxy, u.Host}] = u
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	logDamage(log, file, damage)
	e.Metrics().EndRestore()
	e.RestoreUsage(slices.Collect(maps.Values(usage)))
	var all engine.Costs
	for i, list := range costLists(&all) {
		*list = slices.Collect(maps.Values(costs[i]))
	}
	e.RestoreCosts(all)
	e.RestoreBans(bans)
	h.savedBans = e.LastingBans()
	e.RestoreUsedBytes(slices.Collect(maps.Values(bytes)))
	all = e.Costs()
	h.savedUsage, h.savedBytes, h.savedCosts = setOf(e.Usage()), setOf(e.UsedBytes()), costSetsOf(&all)
	go h.run()
	return h, nil
}

func setOf[T comparable](list []T) map[T]struct{} {
	set := make(map[T]struct{}, len(list))
	for _, u := range list {
		set[u] = struct{}{}
	}
	return set
}

// costLists returns pointers to the lists of c: the costs of proxies, vendors and users.
func costLists(c *engine.Costs) [3]*[]upstream.Cost {
	return [...]*[]upstream.Cost{&c.Proxies, &c.Vendors, &c.Users}
}

// costSets has a set of costs for each list of costLists.
type costSets [3]map[upstream.Cost]struct{}

func costSetsOf(c *engine.Costs) (sets costSets) {
	for i, list := range costLists(c) {
		sets[i] = setOf(*list)
	}
	return sets
}

// changedElements returns the elements of list that are not in saved, or all elements if wantAll is set.
func changedElements[T comparable](list []T, saved map[T]struct{}, wantAll bool) (out []T) {
	for _, e := range list {
		if _, found := saved[e]; wantAll || !found {
			out = append(out, e)
		}
	}
	return out
}

func (h *history) run() {
	defer close(h.done)
	tick := time.NewTicker(saveInterval)
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

// The method save adds entries with the changed counters to the journal, or replaces the journal by entries with all
// counters.
func (h *history) save() {
	saveAll := h.journal.NeedsReplace()
	used, bytes, costs := h.engine.Usage(), h.engine.UsedBytes(), h.engine.Costs()
	c := historyEntry{Users: changedElements(used, h.savedUsage, saveAll),
		Limits: changedElements(bytes, h.savedBytes, saveAll)}
	bans := h.engine.LastingBans()
	if saveAll || !slices.Equal(bans, h.savedBans) {
		saved := make([]engine.SavedBan, len(bans))
		for i, b := range bans {
			saved[i] = h.engine.SaveBan(b)
		}
		c.Bans = &saved
	}
	costSets := costSetsOf(&costs)
	for i, list := range costLists(&costs) {
		if *list = changedElements(*list, h.savedCosts[i], saveAll); len(*list) > 0 {
			c.Costs = &costs
		}
	}
	// These fields are set before the write. If the write fails, they are wrong, but the next save does not use them:
	// it writes all counters (NeedsReplace).
	h.savedUsage, h.savedBytes, h.savedCosts, h.savedBans = setOf(used), setOf(bytes), costSets, bans
	write := h.journal.Append
	if saveAll {
		write = h.journal.Replace
	}
	err := write(func(yield func([]byte, error) bool) {
		for part := range h.engine.Metrics().Save(saveAll) {
			c.Saved = *part
			if !yield(json.Marshal(c)) {
				return
			}
			c = historyEntry{}
		}
		if !c.isEmpty() {
			yield(json.Marshal(c))
		}
	})
	if err != nil && !h.saveFailed {
		h.log.Warn("metrics and the usage of users cannot be saved in the state folder", slog.Any("error", err))
	}
	h.saveFailed = err != nil
}

func (h *history) close() {
	close(h.stop)
	<-h.done
}

// formerStateDir is the default of state.dir in version 0.1.
const formerStateDir = "whirlpool-data"

// warnOfFormerDir logs a warning if formerStateDir has uploaded plugins, which this version does not read.
func warnOfFormerDir(cfg *config.Config, log *slog.Logger) {
	if !cfg.State.Implied {
		return
	}
	if _, err := os.Stat(filepath.Join(formerStateDir, "plugins")); err == nil {
		log.Warn("uploaded plugins in "+formerStateDir+" are not used: it is no longer the default of state.dir; set "+
			"state.dir to it, or remove it", slog.String("dir", cfg.State.Dir))
	}
}

// changeableConfig returns the part of cfg that the API can change.
func changeableConfig(cfg *config.Config) changes.Configuration {
	return changes.Configuration{
		Proxies: cfg.Engine().Proxies, Policy: cfg.Policy,
		Plugins: map[string]string{
			changes.UseFirst: cfg.Selection.First, changes.UseRetry: cfg.Selection.Retry,
			changes.UseJudge: cfg.Selection.Judge,
		},
	}
}
