package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
)

// Uses of a plugin, as the API names them.
const (
	useFirst   = "first"
	useRetry   = "retry"
	useBackoff = "backoff"
	useJudge   = "judge"
)

// activation is a plugin that is in use instead of the one that the configuration names.
type activation struct {
	Configured string `json:"configured"` // the plugin that the configuration named at the time of the activation
	Active     string `json:"active"`
}

// activations keeps the plugins that were activated through the API in a file of [state] dir, so that they
// are in use again after a restart. An activation is valid until the configuration names another plugin for
// the same use.
type activations struct {
	path string // "" keeps nothing
	log  *slog.Logger

	mu    sync.Mutex // guards byUse and the file
	byUse map[string]activation
}

func newActivations(stateDir string, log *slog.Logger) *activations {
	a := &activations{log: log, byUse: map[string]activation{}}
	if stateDir != "" {
		a.path = filepath.Join(stateDir, "activations.json")
	}
	return a
}

// set records that the plugin active was activated for a use. If active equals configured, or is "", set
// removes the record of the use.
func (a *activations) set(use, configured, active string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.path == "" {
		return
	}
	before := a.byUse[use]
	if active == "" || active == configured {
		delete(a.byUse, use)
	} else {
		a.byUse[use] = activation{configured, active}
	}
	if a.byUse[use] == before {
		return
	}
	if err := a.write(); err != nil {
		a.log.Error("the activation of a plugin is not kept: after a restart the configured one is in use",
			slog.String("for", use), slog.Any("error", err))
	}
}

// write replaces the file. The caller holds mu.
func (a *activations) write() error {
	data, err := json.Marshal(a.byUse)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(a.path), 0o700); err != nil {
		return err
	}
	half := a.path + ".new"
	f, err := os.OpenFile(half, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err := cmp.Or(err, f.Sync(), f.Close()); err != nil {
		os.Remove(half)
		return err
	}
	return os.Rename(half, a.path)
}

// read reads the file. If there is no file, there are no activations.
func (a *activations) read() error {
	data, err := os.ReadFile(a.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	kept := map[string]activation{}
	if err := strict.DecodeJSON(data, &kept); err != nil {
		return fmt.Errorf("%s: %w", a.path, err)
	}
	a.byUse = kept
	return nil
}

// restore activates the plugins that were active when the gateway ended. It skips a use for which the
// configuration names another plugin since.
func (a *activations) restore(cfg *config.Config, e *engine.Engine) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.path == "" {
		return
	}
	if err := a.read(); err != nil {
		a.log.Error("activations of plugins could not be restored", slog.Any("error", err))
		return
	}
	configured := configuredPlugins(cfg)
	for _, use := range slices.Sorted(maps.Keys(a.byUse)) {
		kept := a.byUse[use]
		if kept.Configured != configured[use] {
			continue
		}
		attrs := []any{slog.String("for", use), slog.String("plugin", kept.Active),
			slog.String("configured", kept.Configured)}
		if err := activate(e, use, kept.Active); err != nil {
			a.log.Warn("an activated plugin is not in use again after the restart",
				append(attrs, slog.Any("error", err))...)
			continue
		}
		a.log.Info("an activated plugin is in use again after the restart", attrs...)
	}
}

// configuredPlugins returns the plugins that the configuration names, by use.
func configuredPlugins(cfg *config.Config) map[string]string {
	return map[string]string{
		useFirst: cfg.Selection.First, useRetry: cfg.Selection.Retry, useBackoff: cfg.Policy.BackoffStrategy,
		useJudge: cfg.Selection.Judge,
	}
}

// activate uses a plugin. The error says that there is no such plugin, or no such use.
func activate(e *engine.Engine, use, plugin string) error {
	switch use {
	case useFirst:
		return e.Activate(plugin, "")
	case useRetry:
		return e.Activate("", plugin)
	case useJudge:
		return e.ActivateJudge(plugin)
	case useBackoff:
		_, err := e.Policies().Put(func(p retry.Policy) (retry.Policy, error) {
			p = p.Merge(retry.Override{BackoffStrategy: &plugin})
			return p, p.Validate(e.HasBackoff)
		})
		return err
	}
	return fmt.Errorf("use %q %w", use, core.ErrNotFound)
}
