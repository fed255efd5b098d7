// Package plugins keeps the plugins by name: built in, from the configuration
// or uploaded. A name's module may be replaced, rolled back or quarantined
// while requests run; whoever holds the name notices nothing but the answers.
package plugins

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// Sources of a plugin.
const (
	SourceBuiltin = "builtin"
	SourceConfig  = "config"
	SourceAPI     = "api"
)

// The built-ins that answer for a plugin that fails.
const (
	FallbackFirst   = "round_robin"
	FallbackRetry   = "performance"
	FallbackBackoff = "exponential"
)

// DefaultMaxFaults is how many calls in a row may fail before a plugin is
// quarantined.
const DefaultMaxFaults = 5

// Spec is one [plugins.NAME] of the configuration.
type Spec struct {
	Path   string
	SHA256 string        // of the file, in hexadecimal; "" for any
	Kind   wasmhost.Kind // "" for whatever it is
	Config map[string]any
}

// Options of a Registry.
type Options struct {
	Limits    wasmhost.Limits
	CacheDir  string // of compiled code; "" for none
	StateDir  string // of uploaded modules; "" keeps none
	MaxFaults int
	Log       *slog.Logger
	Now       func() time.Time
}

// Registry is safe for concurrent use.
type Registry struct {
	opts     Options
	host     *wasmhost.Host
	byName   atomic.Pointer[map[string]*plugin]
	learners atomic.Pointer[[]*plugin]

	uploading sync.Mutex // one upload compiles at a time, before it takes mu
	staging   sync.Mutex // one set of the configuration's, likewise; until it takes effect
	mu        sync.Mutex // one change at a time
	building  sync.WaitGroup

	poolMu sync.Mutex // held while modules are told of the pool, or enter
	pool   []wasmhost.Proxy
}

// plugin is one name. Its module may change.
type plugin struct {
	name     string
	registry *Registry
	current  atomic.Pointer[version]

	calls, faulted atomic.Uint64
	spent          atomic.Int64 // ns spent in calls; an estimate (timedEvery)

	mu        sync.Mutex
	byReason  map[string]uint64
	lastError string
	lastFault time.Time
	burst     time.Time // when a fault was logged last
	told      tally     // what had been counted then
}

type tally struct{ calls, faults uint64 }

// origin is where a module comes from: all it takes to load it again.
type origin struct {
	code   []byte
	sum    string
	source string
	spec   Spec
}

// version is one module that a plugin has.
type version struct {
	origin
	module   *wasmhost.Module
	loaded   time.Time
	previous *origin               // the one before, of the same source; one step back is kept
	hides    atomic.Bool           // an upload of that name is kept, behind this one of the configuration
	failed   atomic.Pointer[error] // why it never serves: it was begun, or kept, and has a fault

	inARow      atomic.Int64 // answers that failed, the last of them
	deaf        atomic.Int64 // observations that failed, the last of them
	quarantined atomic.Bool
}

// New returns a registry of the built-ins and of the modules uploaded earlier.
func New(opts Options) (*Registry, error) {
	if opts.MaxFaults == 0 {
		opts.MaxFaults = DefaultMaxFaults
	}
	if opts.Limits == (wasmhost.Limits{}) {
		opts.Limits = wasmhost.DefaultLimits()
	}
	r := &Registry{opts: opts, host: wasmhost.New(opts.Limits, opts.CacheDir)}
	all := map[string]*plugin{}
	for name, code := range builtin.Modules() {
		v, err := r.load(name, code, SourceBuiltin, Spec{}, false)
		if err != nil {
			return nil, fmt.Errorf("built-in plugin %s: %w", name, err)
		}
		all[name] = r.newPlugin(name, v)
	}
	r.publish(all)
	if err := r.restore(); err != nil {
		return nil, err
	}
	return r, nil
}

func (p *plugin) kind() wasmhost.Kind { return p.current.Load().kind() }

// kind is "" of an upload that does not load any more.
func (v *version) kind() wasmhost.Kind { return v.module.Description().Kind }

// takes reports whether those who hold p may be served by v. A name whose kind
// is not known may be held as a scorer; a backoff is looked up for each use.
func (p *plugin) takes(v *version) bool {
	was := p.kind()
	return was == v.kind() || was == "" && v.kind() == wasmhost.Scorer
}

func (r *Registry) newPlugin(name string, v *version) *plugin {
	p := &plugin{name: name, registry: r, byReason: map[string]uint64{}}
	p.current.Store(v)
	return p
}

func (r *Registry) publish(all map[string]*plugin) {
	learners := []*plugin{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name].current.Load().module.Learns() {
			learners = append(learners, all[name])
		}
	}
	r.byName.Store(&all)
	r.learners.Store(&learners)
}

func (r *Registry) get(name string) *plugin { return (*r.byName.Load())[name] }

// load makes a version of a module's bytes. With begin, one that takes long to
// compile is returned before it serves; the built-in answers until it does.
func (r *Registry) load(name string, code []byte, source string, spec Spec, begin bool) (*version, error) {
	sum := sha256.Sum256(code)
	v := &version{origin: origin{code, hex.EncodeToString(sum[:]), source, spec}, loaded: r.now()}
	if spec.SHA256 != "" && !strings.EqualFold(spec.SHA256, v.sum) {
		return nil, &wasmhost.CheckError{Msg: fmt.Sprintf("the module's sha256 is %s, not the one pinned", v.sum)}
	}
	var m *wasmhost.Module
	var err error
	if begin && len(code) >= wasmhost.SlowBytes {
		m, err = r.begin(name, code, v)
	} else {
		m, err = r.host.Load(code, spec.Config)
	}
	if err != nil {
		return nil, err
	}
	if kind := m.Description().Kind; spec.Kind != "" && spec.Kind != kind {
		m.Close()
		return nil, &wasmhost.CheckError{Msg: fmt.Sprintf("the module is a %s, not a %s", kind, spec.Kind)}
	}
	v.module = m
	return v, nil
}

func (r *Registry) begin(name string, code []byte, v *version) (*wasmhost.Module, error) {
	r.building.Add(1)
	begun := r.now()
	m, err := r.host.Begin(code, v.spec.Config, func(err error) {
		defer r.building.Done()
		if err != nil {
			v.failed.Store(&err)
			r.opts.Log.Error("plugin does not serve: the built-in answers for it", slog.String("plugin", name), slog.Any("error", err))
			return
		}
		r.opts.Log.Info("plugin compiled", slog.String("plugin", name), slog.Duration("took", r.now().Sub(begun)))
	})
	if err != nil {
		r.building.Done()
	}
	return m, err
}

func (r *Registry) now() time.Time {
	if r.opts.Now == nil {
		return time.Now()
	}
	return r.opts.Now()
}

var nameForm = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,63}$`)

// CheckName says what is wrong with a name for a plugin of one's own.
func CheckName(name string) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("a plugin's name is a lower-case letter and up to 63 lower-case letters, digits, _ or -")
	}
	if builtin.Modules()[name] != nil {
		return fmt.Errorf("%q is built in; give yours another name", name)
	}
	return nil
}

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
			return &core.KeyError{Key: "plugins." + name, Err: err}
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
		return fmt.Errorf("path: %w", err)
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

// maxFile bounds what is read of a plugin's file.
const maxFile = 64 << 20

func readModule(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s is not a file of at most %d bytes", path, maxFile)
	}
	return os.ReadFile(path)
}

func sameSpec(a, b Spec) bool {
	return a.Path == b.Path && strings.EqualFold(a.SHA256, b.SHA256) && a.Kind == b.Kind && fmt.Sprint(a.Config) == fmt.Sprint(b.Config)
}

// Scorer, Backoff resolve names as they will be after Commit.
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

// enter publishes all with the versions that are new in it, which hear of the
// pool before their first call and of every change of it from then on.
func (r *Registry) enter(all map[string]*plugin, fresh []*version, swap func()) {
	r.poolMu.Lock()
	defer r.poolMu.Unlock()
	for _, v := range fresh {
		v.module.SetPool(r.pool)
	}
	swap()
	r.publish(all)
}

// Rollback forgets the change.
func (c *Change) Rollback() {
	for _, v := range c.fresh {
		v.module.Close()
	}
	c.end()
}

// swap puts another module in a plugin's place: calls that run end with the
// old one, the next go to the new one.
func (p *plugin) swap(v *version) {
	old := p.current.Load()
	if old.failed.Load() == nil && old.source == v.source {
		was := old.origin // a copy: a pointer into old would keep it, and all before it
		v.previous = &was
	}
	p.current.Store(v)
	old.module.Close()
}

// PoolChanged tells the plugins that want to know what proxies there are.
func (r *Registry) PoolChanged(proxies []wasmhost.Proxy) {
	r.poolMu.Lock()
	defer r.poolMu.Unlock()
	r.pool = proxies
	for _, p := range *r.byName.Load() {
		p.current.Load().module.SetPool(proxies)
	}
}

// Scorer returns the scorer of that name. Where it fails, the built-in named
// fallback answers.
func (r *Registry) Scorer(name, fallback string) (core.Scorer, error) {
	return scorer(*r.byName.Load(), name, fallback)
}

// Backoff returns the backoff of that name.
func (r *Registry) Backoff(name string) (core.Backoff, error) {
	return backoff(*r.byName.Load(), name)
}

func scorer(all map[string]*plugin, name, fallback string) (core.Scorer, error) {
	p, err := find(all, name, wasmhost.Scorer)
	if err != nil {
		return nil, err
	}
	return &Scorer{p, all[fallback]}, nil
}

func backoff(all map[string]*plugin, name string) (core.Backoff, error) {
	p, err := find(all, name, wasmhost.Backoff)
	if err != nil {
		return nil, err
	}
	return &Backoff{p, all[FallbackBackoff]}, nil
}

func find(all map[string]*plugin, name string, kind wasmhost.Kind) (*plugin, error) {
	p := all[name]
	if p != nil && (p.kind() == kind || p.kind() == "") {
		return p, nil
	}
	var names []string
	for n, p := range all {
		if p.kind() == kind {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return nil, fmt.Errorf("there is no %s named %q; there are %s", kind, name, strings.Join(names, ", "))
}

// Observe tells the plugins that learn of a finished attempt.
func (r *Registry) Observe(o *core.Observation) {
	for _, p := range *r.learners.Load() {
		p.call(func(m *wasmhost.Module) error { return m.Observe(o) })
	}
}

// Close ends every module; running calls end first.
func (r *Registry) Close() {
	for _, p := range *r.byName.Load() {
		p.current.Load().module.Close()
	}
	r.building.Wait()
}

var errQuarantined = errors.New("the plugin is quarantined")
