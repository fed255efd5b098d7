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
)

// Change is a set of plugins of the configuration that is ready to take effect.
type Change struct {
	r     *Registry
	ready map[string]*version // loaded, and without a place yet
	all   map[string]*plugin
	swaps map[*plugin]*version
	fresh []*version
	gone  []*plugin
	notes []note
}

// note is a log record about a plugin, written when the change takes effect.
type note struct{ msg, plugin string }

// Stage loads the configuration's plugins. Nothing changes before Commit; Rollback drops the change. One of the two
// must follow soon: until then every other change of the registry waits. The error is a *core.KeyError.
func (r *Registry) Stage(specs map[string]Spec) (*Change, error) { return r.stage(specs, false) }

// Begin is Stage for a start of the gateway: modules that are slow to compile do so in the background, and the
// built-ins answer until they serve.
func (r *Registry) Begin(specs map[string]Spec) (*Change, error) { return r.stage(specs, true) }

// stage loads without a lock, and takes mu when all is loaded. It loads again if another change of the configuration
// has taken effect meanwhile.
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

// arrange gives the loaded versions their places. It requires mu.
func (c *Change) arrange(specs map[string]Spec) {
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

// load loads the plugins that are new or changed in specs, and the uploads that are no longer hidden by a plugin of
// the configuration. Until the change is applied, a hidden upload may be
// deleted, but not replaced.
func (c *Change) load(specs map[string]Spec, begin bool) error {
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		if err := c.loadSpec(name, specs[name], begin); err != nil {
			key := "plugins." + name
			if k := (*core.KeyError)(nil); errors.As(err, &k) { // one within it
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
	code, err := readModule(spec.Path)
	if err != nil {
		return &core.KeyError{Key: "path", Err: err}
	}
	if p := c.r.get(name); p != nil {
		was := p.current.Load()
		if was.sum == sha256Of(code) && was.source == SourceConfig && sameSpec(was.spec, spec) {
			return nil
		}
	}
	v, err := c.r.load(name, code, SourceConfig, spec, begin)
	if err != nil {
		return fmt.Errorf("%s: %w", spec.Path, err)
	}
	c.ready[name] = v
	return nil
}

// place gives a module of the configuration its place. It requires mu.
func (c *Change) place(name string, v *version) {
	if p := c.all[name]; p != nil {
		was := p.current.Load()
		hides := was.hides.Load()
		if was.source == SourceAPI {
			hides = c.r.opts.StateDir != ""
			c.notes = append(c.notes,
				note{"[plugins.NAME] of the configuration takes the place of the upload of that name", name})
		}
		v.hides.Store(hides)
	}
	c.put(name, v)
}

// put gives a name another module. It requires mu.
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
	return a.Path == b.Path && strings.EqualFold(a.SHA256, b.SHA256) && a.Kind == b.Kind && a.Observe == b.Observe &&
		sameConfig
}

// Scorer is Registry.Scorer as it will be after Commit.
func (c *Change) Scorer(name, fallback string) (core.Scorer, error) {
	return scorer(c.all, name, fallback)
}

// Backoff is Registry.Backoff as it will be after Commit.
func (c *Change) Backoff(name string) (core.Backoff, error) { return backoff(c.all, name) }

// Commit lets the change take effect.
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
	c.r.mu.Unlock()
	for _, n := range c.notes {
		c.r.opts.Log.Warn(n.msg, slog.String("plugin", n.plugin))
	}
}

// Rollback drops the change.
func (c *Change) Rollback() {
	for _, v := range c.fresh {
		v.module.Close()
	}
	c.closeReady()
	c.r.mu.Unlock()
}

// closeReady closes the versions that have no place.
func (c *Change) closeReady() {
	for _, v := range c.ready {
		v.module.Close()
	}
}
