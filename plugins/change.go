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

// Change is a set of configured plugins that have been loaded and are waiting for Commit or Rollback.
type Change struct {
	r     *Registry
	ready map[string]*version // loaded versions that are not in the field all yet
	all   map[string]*plugin
	swaps map[*plugin]*version
	fresh []*version
	gone  []*plugin
	notes []note
	specs map[string]Spec
}

// note is a log record that Commit will write.
type note struct{ msg, plugin string }

const keptUnusable = "a kept plugin is not used: it is fetched again"

const placeTaken = "[plugins.NAME] of the configuration takes the place of the upload of that name"

// Stage loads the plugins of the configuration. The registry stays unchanged until Commit; Rollback discards the
// change. The caller must call Commit or Rollback soon: until then, all other changes of the registry wait. The error
// is a *core.KeyError.
func (r *Registry) Stage(specs map[string]Spec) (*Change, error) { return r.stage(specs, false) }

// Begin is like Stage, but for the start of the gateway: modules that take long to compile are
// compiled in the background. Until a module is ready, the built-in is called instead.
func (r *Registry) Begin(specs map[string]Spec) (*Change, error) { return r.stage(specs, true) }

// stage loads the plugins while it does not hold mu, and then locks mu. If another change of the configuration has
// taken effect in the meantime (Registry.configured), stage loads the plugins again.
func (r *Registry) stage(specs map[string]Spec, begin bool) (*Change, error) {
	r.mu.Lock()
	for {
		configured := r.configured
		r.mu.Unlock()
		c := &Change{r: r, ready: map[string]*version{}, swaps: map[*plugin]*version{}}
		err := c.load(specs, begin)
		r.mu.Lock()
		if err == nil && r.configured == configured {
			c.arrange(specs)
			return c, nil
		}
		c.closeReady()
		if err != nil {
			r.mu.Unlock()
			return nil, err
		}
	}
}

// arrange puts the loaded versions into c.all, the map of plugins that the registry has after Commit. The caller
// holds mu.
func (c *Change) arrange(specs map[string]Spec) {
	c.specs = specs
	c.all = maps.Clone(*c.r.byName.Load())
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		if v := c.ready[name]; v != nil {
			c.place(name, v)
		}
	}
	for name, p := range c.all {
		v := p.current.Load()
		if _, stays := specs[name]; stays || v.source != SourceConfig {
			continue
		}
		if v.hides.Load() {
			c.put(name, c.ready[name])
			c.notes = append(c.notes,
				note{"[plugins.NAME] is gone from the configuration: the upload of that name serves again", name})
			continue
		}
		delete(c.all, name)
		c.gone = append(c.gone, p)
	}
}

// load loads the plugins that are new or changed in specs. An upload is hidden while a plugin of the configuration
// has the same name. load also loads each hidden upload whose name is not in specs any more. Until Commit or
// Rollback, a hidden upload may be deleted, but not replaced.
func (c *Change) load(specs map[string]Spec, begin bool) error {
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		if err := c.loadSpec(name, specs[name], begin); err != nil {
			key := "plugins." + name
			if k := (*core.KeyError)(nil); errors.As(err, &k) { // the error already names the key
				key, err = key+"."+k.Key, k.Err
			}
			return &core.KeyError{Key: key, Err: err}
		}
	}
	for name, p := range *c.r.byName.Load() {
		if _, stays := specs[name]; !stays && p.current.Load().hides.Load() {
			c.ready[name] = c.r.saved(name, begin)
		}
	}
	return nil
}

func (c *Change) loadSpec(name string, spec Spec, begin bool) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if spec.Source.URL != "" {
		return c.loadFetched(name, spec, begin)
	}
	code, err := spec.module()
	if err != nil {
		return err
	}
	return c.loadCode(name, spec, fetched{Module: source.Module{Code: code}}, begin)
}

// loadFetched loads a module that was fetched before. If no such module is kept, the plugin with this name does not
// change until its module has been fetched. If begin is set and a kept module cannot be loaded any more, this is
// logged and is no error, so that the gateway starts nevertheless.
func (c *Change) loadFetched(name string, spec Spec, begin bool) error {
	if m := c.r.kept(name, spec); m != nil {
		err := c.loadCode(name, spec, *m, begin)
		if err == nil || !begin {
			return err
		}
		c.r.opts.Log.Error(keptUnusable, slog.String("plugin", name), slog.Any("error", err))
	}
	if c.r.get(name) == nil {
		c.ready[name] = c.r.pendingVersion(name, spec)
	}
	return nil
}

// loadCode loads a module, unless the plugin already has this module with the same spec.
func (c *Change) loadCode(name string, spec Spec, m fetched, begin bool) error {
	code := m.Code
	if p := c.r.get(name); p != nil {
		was := p.current.Load()
		if was.sum == sha256Of(code) && was.source == SourceConfig && sameSpec(was.spec, spec) {
			return nil
		}
	}
	v, err := c.r.load(name, code, SourceConfig, spec, begin)
	if err != nil {
		return fmt.Errorf("%s: %w", spec.place(), err)
	}
	v.fetched, v.signature = m.at, m.Signature
	c.ready[name] = v
	return nil
}

// module reads the module of a plugin of the configuration. The error is a *core.KeyError.
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

// place puts a module of the configuration into c.all. The caller holds mu.
func (c *Change) place(name string, v *version) {
	if p := c.all[name]; p != nil {
		was := p.current.Load()
		hides := was.hides.Load()
		if was.source == SourceAPI {
			hides = c.r.opts.StateDir != ""
			c.notes = append(c.notes,
				note{placeTaken, name})
		}
		v.hides.Store(hides)
	}
	c.put(name, v)
}

// put puts a module into c.all under a name. The caller holds mu.
func (c *Change) put(name string, v *version) {
	delete(c.ready, name)
	c.fresh = append(c.fresh, v)
	p := c.all[name]
	if p != nil && p.takes(v) {
		c.swaps[p] = v
		return
	}
	if p != nil {
		c.gone = append(c.gone, p)
	}
	c.all[name] = c.r.newPlugin(name, v)
}

func sameSpec(a, b Spec) bool {
	sameConfig := len(a.Config)+len(b.Config) == 0 || reflect.DeepEqual(a.Config, b.Config)
	sameModule := a.Path == b.Path && a.Builtin == b.Builtin && a.Source == b.Source &&
		strings.EqualFold(a.SHA256, b.SHA256)
	return sameModule && a.Kind == b.Kind && a.Observe == b.Observe && a.Limits == b.Limits && sameConfig
}

// Scorer returns the scorer that Registry.Scorer will return after Commit.
func (c *Change) Scorer(name, fallback string) (core.Scorer, error) {
	return scorer(c.all, name, fallback)
}

// Backoff returns the backoff that Registry.Backoff will return after Commit.
func (c *Change) Backoff(name string) (core.Backoff, error) { return backoff(c.all, name) }

// Judge returns the judge that Registry.Judge will return after Commit.
func (c *Change) Judge(name string) (core.Judge, error) { return judge(c.all, name) }

// Commit makes the change take effect.
func (c *Change) Commit() {
	c.r.configured++
	c.r.enter(c.all, c.fresh, func() {
		for p, v := range c.swaps {
			p.swap(v)
		}
	})
	for _, p := range c.gone {
		p.retire()
	}
	c.closeReady()
	c.r.syncFetchers(c.specs)
	c.r.mu.Unlock()
	for _, n := range c.notes {
		c.r.opts.Log.Warn(n.msg, slog.String("plugin", n.plugin))
	}
}

// Rollback discards the change.
func (c *Change) Rollback() {
	for _, v := range c.fresh {
		v.module.Close()
	}
	c.closeReady()
	c.r.mu.Unlock()
}

// closeReady closes the loaded versions that were not put into c.all.
func (c *Change) closeReady() {
	for _, v := range c.ready {
		v.module.Close()
	}
}
