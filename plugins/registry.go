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
	FallbackFirst   = "least_in_flight"
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
	r.host.NoCache = func(err error) {
		r.opts.Log.Warn("compiled plugins are not kept (plugins.cache_dir): a large one is compiled again at each start", slog.Any("error", err))
	}
	all := map[string]*plugin{}
	for name, code := range builtin.Modules() {
		v, err := r.load(name, code, SourceBuiltin, Spec{}, false)
		if err != nil {
			return nil, fmt.Errorf("built-in plugin %s: %w", name, err)
		}
		all[name] = r.newPlugin(name, v)
	}
	r.publish(all)
	r.restore()
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
		return nil, &core.KeyError{Key: "sha256", Err: fmt.Errorf("that of %s is %s", spec.Path, v.sum)}
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
		return nil, &core.KeyError{Key: "kind", Err: fmt.Errorf("%s is a %s", spec.Path, kind)}
	}
	v.module = m
	return v, nil
}

func (r *Registry) begin(name string, code []byte, v *version) (*wasmhost.Module, error) {
	r.building.Add(1)
	begun := r.now()
	m, err := r.host.Begin(code, v.spec.Config, func(err error) {
		defer r.building.Done()
		if errors.Is(err, wasmhost.ErrClosed) { // it has left before its turn
			return
		}
		if err != nil {
			msg := "plugin does not serve: the built-in answers for it"
			if v.source == SourceAPI {
				msg, err = lostMsg, lost(name, err)
			}
			v.failed.Store(&err)
			r.opts.Log.Error(msg, slog.String("plugin", name), slog.Any("error", err))
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

// Wait waits for what compiles in the background: then each plugin serves, or
// has failed.
func (r *Registry) Wait() { r.building.Wait() }

// Close ends every module; running calls end first.
func (r *Registry) Close() {
	for _, p := range *r.byName.Load() {
		p.current.Load().module.Close()
	}
	r.building.Wait()
}

var errQuarantined = errors.New("the plugin is quarantined")
