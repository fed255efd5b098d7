package plugins

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Change is a set of plugins that is ready to take effect.
type Change struct {
	r     *Registry
	ready map[string]*version // loaded, and not put in a place yet
	all   map[string]*plugin
	swaps map[*plugin]*version
	fresh []*version
	gone  []*plugin
	notes []note
}

// note is for the log, once the change has taken effect.
type note struct{ msg, plugin string }

// Stage loads the configuration's plugins. Nothing has changed before Commit;
// Rollback forgets it all, and one of the two has to follow soon. The error
// names the plugin.
func (r *Registry) Stage(specs map[string]Spec) (*Change, error) { return r.stage(specs, false) }

// Begin is Stage for a start: what takes long to compile does so in the
// background while the built-ins answer for it, and is not waited for.
func (r *Registry) Begin(specs map[string]Spec) (*Change, error) { return r.stage(specs, true) }

// stage compiles first and takes mu then: what is done by the API meanwhile
// waits for no compiler.
func (r *Registry) stage(specs map[string]Spec, begin bool) (*Change, error) {
	r.staging.Lock() // until Commit or Rollback, as is mu
	c := &Change{r: r, ready: map[string]*version{}, swaps: map[*plugin]*version{}}
	err := c.load(specs, begin)
	r.mu.Lock()
	if err != nil {
		c.Rollback()
		return nil, err
	}
	c.all = maps.Clone(*r.byName.Load())
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
			c.notes = append(c.notes, note{"[plugins.NAME] is gone from the configuration: the upload of that name serves again", name})
			continue
		}
		delete(c.all, name)
		c.gone = append(c.gone, p)
	}
	return c, nil
}

// load makes what is new in specs, and the uploads hidden so far by what is no
// longer there, ready. It requires staging only: nobody else changes what comes
// from the configuration, and a hidden upload can be deleted, but not replaced.
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
		sum := sha256.Sum256(code)
		if was.sum == hex.EncodeToString(sum[:]) && was.source == SourceConfig && sameSpec(was.spec, spec) {
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

// place puts a module of the configuration in its place.
func (c *Change) place(name string, v *version) {
	if p := c.all[name]; p != nil {
		was := p.current.Load()
		hides := was.hides.Load()
		if was.source == SourceAPI {
			hides = c.r.opts.StateDir != ""
			c.notes = append(c.notes, note{"[plugins.NAME] of the configuration takes the place of the upload of that name", name})
		}
		v.hides.Store(hides)
	}
	c.put(name, v)
}

// put gives a name another module.
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
	return a.Path == b.Path && strings.EqualFold(a.SHA256, b.SHA256) && a.Kind == b.Kind && sameConfig
}

// Scorer is Registry.Scorer as it will be after Commit; so is Backoff.
func (c *Change) Scorer(name, fallback string) (core.Scorer, error) {
	return scorer(c.all, name, fallback)
}

// Backoff is the backoff of that name.
func (c *Change) Backoff(name string) (core.Backoff, error) { return backoff(c.all, name) }

// Commit lets the change take effect.
func (c *Change) Commit() {
	c.r.enter(c.all, c.fresh, func() {
		for p, v := range c.swaps {
			p.swap(v)
		}
	})
	for _, p := range c.gone {
		p.current.Load().module.Close()
	}
	for _, n := range c.notes {
		c.r.opts.Log.Warn(n.msg, slog.String("plugin", n.plugin))
	}
	c.end()
}

// end closes what has found no place.
func (c *Change) end() {
	for _, v := range c.ready {
		v.module.Close()
	}
	c.r.mu.Unlock()
	c.r.staging.Unlock()
}

// Rollback forgets the change.
func (c *Change) Rollback() {
	for _, v := range c.fresh {
		v.module.Close()
	}
	c.end()
}
