package plugins

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/source"
)

// Change is a set of configured plugins that are loaded, but are not in the registry yet. Commit puts them into the
// registry; Rollback discards them.
type Change struct {
	registry       *Registry
	loaded         map[string]*version // loaded versions that are not in the field plugins yet
	plugins        map[string]*plugin
	replacements   map[*plugin]*version
	newVersions    []*version
	removedPlugins []*plugin
	warnings       []warning
	specs          map[string]Spec
}

// warning is a log record that Commit writes.
type warning struct{ msg, plugin string }

const fetchedUnusable = "a kept plugin is not used: it is fetched again"

const uploadHidden = "[plugins.NAME] of the configuration takes the place of the upload of that name"

// Stage loads the plugins of the configuration, without changing the registry. The caller must call Commit or Rollback
// soon: until then, all other changes of the registry wait. The error is a *core.KeyError.
func (r *Registry) Stage(specs map[string]Spec) (*Change, error) { return r.stage(specs, false) }

// StageAtStart is like Stage, but does not wait for modules that take long to compile: it compiles them in the
// background. Until such a module is ready, the built-in is called.
func (r *Registry) StageAtStart(specs map[string]Spec) (*Change, error) { return r.stage(specs, true) }

// stage loads the plugins while mu is not locked. Without an error, it returns with mu locked. If the configuration has
// changed while the plugins were loaded, it loads them again.
func (r *Registry) stage(specs map[string]Spec, atStart bool) (*Change, error) {
	r.mu.Lock()
	for {
		configChanges := r.configChanges
		r.mu.Unlock()
		c := &Change{registry: r, loaded: map[string]*version{}, replacements: map[*plugin]*version{}}
		err := c.loadChanged(specs, atStart)
		r.mu.Lock()
		if err == nil && r.configChanges == configChanges {
			c.assemblePlugins(specs)
			return c, nil
		}
		c.closeUnused()
		if err != nil {
			r.mu.Unlock()
			return nil, err
		}
	}
}

// assemblePlugins makes c.plugins, the plugins that the registry has after Commit. The caller holds mu.
func (c *Change) assemblePlugins(specs map[string]Spec) {
	c.specs = specs
	c.plugins = maps.Clone(*c.registry.byName.Load())
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		if v := c.loaded[name]; v != nil {
			c.putConfigured(name, v)
		}
	}
	for name, p := range c.plugins {
		v := p.current.Load()
		if _, isConfigured := specs[name]; isConfigured || v.source != SourceConfig {
			continue
		}
		if v.hidesUpload.Load() {
			c.putVersion(name, c.loaded[name])
			c.warnings = append(c.warnings,
				warning{"[plugins.NAME] is gone from the configuration: the upload of that name serves again", name})
			continue
		}
		delete(c.plugins, name)
		c.removedPlugins = append(c.removedPlugins, p)
	}
}

// loadChanged loads the plugins that are new or changed in specs. An uploaded plugin is hidden while a configured
// plugin has the same name. If specs no longer has this plugin, loadChanged also loads the upload. During the
// load, another call may delete the upload, but not replace it.
func (c *Change) loadChanged(specs map[string]Spec, atStart bool) error {
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		if err := c.loadSpec(name, specs[name], atStart); err != nil {
			key := "plugins." + name
			if k := (*core.KeyError)(nil); errors.As(err, &k) { // the error already names the key
				key, err = key+"."+k.Key, k.Err
			}
			return &core.KeyError{Key: key, Err: err}
		}
	}
	for name, p := range *c.registry.byName.Load() {
		if _, isConfigured := specs[name]; !isConfigured && p.current.Load().hidesUpload.Load() {
			c.loaded[name] = c.registry.loadUpload(name, atStart)
		}
	}
	return nil
}

func (c *Change) loadSpec(name string, spec Spec, atStart bool) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if spec.Source.URL != "" {
		return c.loadFetched(name, spec, atStart)
	}
	code, err := spec.module()
	if err != nil {
		return err
	}
	return c.loadCode(name, spec, fetchedModule{Module: source.Module{Code: code}}, atStart)
}

// loadFetched loads the module of a plugin if the module was fetched before, in this run or an earlier one. Otherwise
// the plugin does not change until the module has been fetched. If atStart is set, an error is only logged, so that the
// gateway starts.
func (c *Change) loadFetched(name string, spec Spec, atStart bool) error {
	if m := c.registry.savedModule(name, spec); m != nil {
		err := c.loadCode(name, spec, *m, atStart)
		if err == nil || !atStart {
			return err
		}
		c.registry.opts.Log.Error(fetchedUnusable, slog.String("plugin", name), slog.Any("error", err))
	}
	if c.registry.get(name) == nil {
		c.loaded[name] = c.registry.pendingVersion(name, spec)
	}
	return nil
}

// loadCode loads a module, unless the plugin already has it with the same spec.
func (c *Change) loadCode(name string, spec Spec, m fetchedModule, atStart bool) error {
	code := m.Code
	if p := c.registry.get(name); p != nil {
		current := p.current.Load()
		if current.sum == sha256Of(code) && current.source == SourceConfig && sameSpec(current.spec, spec) {
			return nil
		}
	}
	v, err := c.registry.loadVersion(name, code, SourceConfig, spec, atStart)
	if err != nil {
		return fmt.Errorf("%s: %w", spec.origin(), err)
	}
	v.fetchedAt, v.signature = m.fetchedAt, m.Signature
	c.loaded[name] = v
	return nil
}

// module returns the code of the module: the content of the file s.Path, or the code of a built-in. The error is a
// *core.KeyError.
func (s *Spec) module() ([]byte, error) {
	if s.Builtin == "" {
		code, err := readModule(s.Path)
		if err != nil {
			return nil, &core.KeyError{Key: "path", Err: err}
		}
		return code, nil
	}
	all := builtin.Modules()
	if all[s.Builtin] == nil {
		names := strings.Join(slices.Sorted(maps.Keys(all)), ", ")
		return nil, &core.KeyError{Key: "builtin", Value: s.Builtin, Err: fmt.Errorf("must be one of %s", names)}
	}
	return all[s.Builtin], nil
}

// putConfigured puts a module of the configuration into c.plugins. The caller holds mu.
func (c *Change) putConfigured(name string, v *version) {
	if p := c.plugins[name]; p != nil {
		current := p.current.Load()
		hidesUpload := current.hidesUpload.Load()
		if current.source == SourceAPI {
			hidesUpload = c.registry.opts.StateDir != ""
			c.warnings = append(c.warnings,
				warning{uploadHidden, name})
		}
		v.hidesUpload.Store(hidesUpload)
	}
	c.putVersion(name, v)
}

// putVersion puts a module into c.plugins under a name. The caller holds mu.
func (c *Change) putVersion(name string, v *version) {
	delete(c.loaded, name)
	c.newVersions = append(c.newVersions, v)
	p := c.plugins[name]
	if p != nil && p.canReplace(v) {
		c.replacements[p] = v
		return
	}
	if p != nil {
		c.removedPlugins = append(c.removedPlugins, p)
	}
	c.plugins[name] = c.registry.newPlugin(name, v)
}

func sameSpec(a, b Spec) bool {
	sameConfig := len(a.Config)+len(b.Config) == 0 || reflect.DeepEqual(a.Config, b.Config)
	sameModule := a.Path == b.Path && a.Builtin == b.Builtin && a.Source == b.Source &&
		strings.EqualFold(a.SHA256, b.SHA256)
	return sameModule && a.Kind == b.Kind && a.Observe == b.Observe && a.Limits == b.Limits && sameConfig
}

// Scorer returns the scorer that Registry.Scorer will return after Commit.
func (c *Change) Scorer(name, fallback string) (core.Scorer, error) {
	return findScorer(c.plugins, name, fallback)
}

// Backoff returns the backoff that Registry.Backoff will return after Commit.
func (c *Change) Backoff(name string) (core.Backoff, error) { return findBackoff(c.plugins, name) }

// Judge returns the judge that Registry.Judge will return after Commit.
func (c *Change) Judge(name string) (core.Judge, error) { return findJudge(c.plugins, name) }

// Commit makes the change take effect.
func (c *Change) Commit() {
	c.registry.configChanges++
	c.registry.publishVersions(c.plugins, c.newVersions, func() {
		for p, v := range c.replacements {
			p.replaceVersion(v)
		}
	})
	for _, p := range c.removedPlugins {
		p.close()
	}
	c.closeUnused()
	c.registry.syncFetchers(c.specs)
	c.registry.mu.Unlock()
	for _, n := range c.warnings {
		c.registry.opts.Log.Warn(n.msg, slog.String("plugin", n.plugin))
	}
}

// Rollback discards the change.
func (c *Change) Rollback() {
	for _, v := range c.newVersions {
		v.module.Close()
	}
	c.closeUnused()
	c.registry.mu.Unlock()
}

// closeUnused closes the loaded versions that were not put into c.plugins.
func (c *Change) closeUnused() {
	for _, v := range c.loaded {
		v.module.Close()
	}
}
