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

// Change is a set of configured plugins that are loaded, but are not in the registry yet. See Registry.Apply.
type Change struct {
	registry      *Registry
	specs         map[string]Spec
	loaded        map[string]*version // the versions that were loaded for this change
	configChanges uint64              // Registry.configChanges at the beginning of the load

	// The fields below are set by assemblePlugins.
	plugins        map[string]*plugin // the plugins that the registry has after the change
	replacements   map[*plugin]*version
	newVersions    []*version // the loaded versions that are used
	removedPlugins []*plugin
	warnings       []warning
}

// warning is a log record that is written when the change takes effect.
type warning struct{ msg, plugin string }

const fetchedUnusable = "a kept plugin is not used: it is fetched again"

const uploadHidden = "[plugins.NAME] of the configuration takes the place of the upload of that name"

// Apply replaces the configured plugins by the plugins of specs. First it loads the plugins that are new or changed.
// Then it calls check with the result. If the load or check fails, Apply returns the error, and the registry does not
// change. An error of the load is a *core.KeyError. A check of nil accepts everything.
//
// The registry holds no lock while plugins are loaded and while check runs. If the registry is changed meanwhile,
// Apply calls check again. After a change by another Apply or by a fetched module, it also loads the plugins again.
func (r *Registry) Apply(specs map[string]Spec, check func(*Change) error) error {
	return r.apply(specs, check, false)
}

// ApplyAtStart is like Apply without a check, but does not wait for modules that take long to compile: it compiles them
// in the background. Until such a module is ready, the built-in is called.
func (r *Registry) ApplyAtStart(specs map[string]Spec) error { return r.apply(specs, nil, true) }

// errConfigChanged reports that the configured plugins have changed since a Change was loaded.
var errConfigChanged = errors.New("the configured plugins have changed")

func (r *Registry) apply(specs map[string]Spec, check func(*Change) error, atStart bool) error {
	if check == nil {
		check = func(*Change) error { return nil }
	}
	for {
		c := &Change{registry: r, specs: specs, loaded: map[string]*version{}, configChanges: r.countConfigChanges()}
		err := c.loadChanged(atStart)
		if err == nil {
			err = c.commit(check)
		}
		if err != nil {
			c.newVersions = nil
		}
		c.closeUnused()
		if !errors.Is(err, errConfigChanged) {
			return err
		}
	}
}

func (r *Registry) countConfigChanges() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.configChanges
}

// commit makes the change take effect if check accepts it.
func (c *Change) commit(check func(*Change) error) error {
	prepare := func() error {
		if err := c.assemblePlugins(); err != nil {
			return err
		}
		return check(c)
	}
	if err := c.registry.changeAfter(prepare, c.publish); err != nil {
		return err
	}
	for _, p := range c.removedPlugins {
		p.close()
	}
	for _, w := range c.warnings {
		c.registry.opts.Log.Warn(w.msg, slog.String("plugin", w.plugin))
	}
	return nil
}

// publish puts the plugins into the registry. The caller holds mu.
func (c *Change) publish() error {
	c.registry.configChanges++
	c.registry.publishVersions(c.plugins, c.newVersions, func() {
		for p, v := range c.replacements {
			p.replaceVersion(v)
		}
	})
	c.registry.syncFetchers(c.specs)
	return nil
}

// assemblePlugins sets the plugins that the registry has after the change. If the configured plugins have changed since
// the load, it returns errConfigChanged.
func (c *Change) assemblePlugins() error {
	r := c.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.configChanges != r.configChanges {
		return errConfigChanged
	}
	c.plugins = maps.Clone(*r.byName.Load())
	c.replacements = map[*plugin]*version{}
	c.newVersions, c.removedPlugins, c.warnings = nil, nil, nil
	for _, name := range slices.Sorted(maps.Keys(c.specs)) {
		if v := c.loaded[name]; v != nil {
			c.putConfigured(name, v)
		}
	}
	for name, p := range c.plugins {
		v := p.current.Load()
		if _, isConfigured := c.specs[name]; isConfigured || v.source != SourceConfig {
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
	return nil
}

// loadChanged loads the plugins that are new or changed. An uploaded plugin is hidden while a configured plugin has
// the same name. When the configuration drops such a name, loadChanged also loads the upload. During the load, another
// call may delete the upload, but not replace it.
func (c *Change) loadChanged(atStart bool) error {
	for _, name := range slices.Sorted(maps.Keys(c.specs)) {
		if err := c.loadSpec(name, c.specs[name], atStart); err != nil {
			key := "plugins." + name
			if k := (*core.KeyError)(nil); errors.As(err, &k) { // the error already names the key
				key, err = key+"."+k.Key, k.Err
			}
			return &core.KeyError{Key: key, Err: err}
		}
	}
	for name, p := range *c.registry.byName.Load() {
		if _, isConfigured := c.specs[name]; !isConfigured && p.current.Load().hidesUpload.Load() {
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

// putConfigured puts a module of the configuration into c.plugins.
func (c *Change) putConfigured(name string, v *version) {
	hidesUpload := false
	if p := c.plugins[name]; p != nil {
		current := p.current.Load()
		hidesUpload = current.hidesUpload.Load()
		if current.source == SourceAPI {
			hidesUpload = c.registry.opts.StateDir != ""
			c.warnings = append(c.warnings, warning{uploadHidden, name})
		}
	}
	v.hidesUpload.Store(hidesUpload)
	c.putVersion(name, v)
}

// putVersion puts a module into c.plugins under a name.
func (c *Change) putVersion(name string, v *version) {
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

// Scorer returns the scorer that Registry.Scorer returns after the change.
func (c *Change) Scorer(name, fallback string) (core.Scorer, error) {
	return findScorer(c.plugins, name, fallback)
}

// Backoff returns the backoff that Registry.Backoff returns after the change.
func (c *Change) Backoff(name string) (core.Backoff, error) { return findBackoff(c.plugins, name) }

// Judge returns the judge that Registry.Judge returns after the change.
func (c *Change) Judge(name string) (core.Judge, error) { return findJudge(c.plugins, name) }

// closeUnused closes the loaded versions that are not used.
func (c *Change) closeUnused() {
	for _, v := range c.loaded {
		if !slices.Contains(c.newVersions, v) {
			v.module.Close()
		}
	}
}
