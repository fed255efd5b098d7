// Package plugins is the registry of plugins. A plugin is built in, configured or uploaded, and has a name. The
// module of a plugin can be replaced, rolled back or quarantined while requests are in flight. A Scorer, Backoff or
// Judge calls the current module of its plugin. If that module cannot be used, a built-in is called in place of a
// scorer or a backoff. No built-in replaces a judge.
//
// Files: plugin.go has the types plugin and version (one module of a plugin), call.go the calls, health.go the
// quarantine, observe.go the observations, change.go the plugins of the configuration, fetch.go the modules that are
// fetched, uploads.go the uploads, files.go the files of uploads, and shared.go the uploads of other gateways.
package plugins

import (
	"cmp"
	"context"
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
	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/output"
	"github.com/whirlpool-proxy/whirlpool/plugins/source"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// Sources of a plugin.
const (
	SourceBuiltin = "builtin"
	SourceConfig  = "config"
	SourceAPI     = "api"
)

// The built-ins that are called in place of a failing first scorer, retry scorer or backoff.
const (
	FallbackFirst   = "least_in_flight"
	FallbackRetry   = "performance"
	FallbackBackoff = "exponential"
)

// Spec is one [plugins.NAME] of the configuration. Its module comes from Path, Builtin or Source.
type Spec struct {
	Path    string
	Builtin string        // the built-in whose module is used in place of Path; "" for none
	SHA256  string        // SHA-256 of the file, in hexadecimal; "" if any file is accepted
	Source  source.Source // fetched in the background
	Kind    wasmhost.Kind // "" for any
	Observe bool          // the plugin gets observations even while it is not in use
	Limits  Limits
	Config  map[string]any

	Temporary bool // an upload that is not kept in StateDir
}

// Limits are the limits of one plugin. A field with the value 0 means that the limit in Options.Limits applies.
type Limits struct {
	Fuel        int64         // fuel of one call; see wasmhost.Limits
	MemoryBytes int64         // memory of an instance, rounded down to pages of 64 KiB
	CallTimeout time.Duration // CPU time of one call
}

// WithDefaults returns the limits of a plugin, with the defaults in place of limits that are 0.
func (l Limits) WithDefaults(defaults wasmhost.Limits) wasmhost.Limits {
	defaults.Fuel = cmp.Or(l.Fuel, defaults.Fuel)
	defaults.MemoryPages = cmp.Or(uint32(l.MemoryBytes>>16), defaults.MemoryPages)
	defaults.CallTimeout = cmp.Or(l.CallTimeout, defaults.CallTimeout)
	return defaults
}

// origin returns the origin of the module, for messages: the path, the name of the built-in, or the URL without its
// query.
func (s *Spec) origin() string { return cmp.Or(s.Path, s.Builtin, s.Source.URLWithoutQuery()) }

// Options are the options of a Registry.
type Options struct {
	Limits    wasmhost.Limits  // the zero value stands for wasmhost.DefaultLimits
	CacheDir  string           // folder of compiled modules; "" for none
	StateDir  string           // folder in which uploads are saved; "" if they are not saved
	MaxFaults int              // see DefaultMaxFaults; 0 means DefaultMaxFaults
	Log       *slog.Logger     // required
	Now       func() time.Time // nil stands for time.Now
	// Fetch fetches and verifies the module of a Spec with a Source; see source.Client. If it is nil, no module
	// is fetched.
	Fetch func(ctx context.Context, from source.Source) (*source.Module, error)
	// Check examines an upload before it is loaded. If the module is bad, the error is a *Rejection. Any other
	// error means that the check itself failed, which is not due to the module. If Check is nil, uploads are only
	// loaded and called once.
	Check func(ctx context.Context, code []byte, spec Spec) error
	// OnUpload is called after each upload, rollback and deletion of a plugin. For a deletion, code is nil. The upload,
	// the rollback or the deletion does not end before OnUpload returns. OnUpload may be nil.
	OnUpload func(name string, code []byte, config map[string]any, persist bool)
	// OnLine receives each log line of a plugin, except the lines beyond the limit of package output. The plugin's call
	// waits until OnLine returns, so OnLine must return soon. It must not call the registry. It may be nil.
	OnLine func(plugin string, l output.Line)
	// OnFault receives a report whenever failed calls are logged: at a quarantine, and otherwise at most once in
	// 10 s for each plugin. It must return soon, and must not call the registry. It may be nil.
	OnFault func(FaultReport)
}

// Registry holds all plugins by name. It is safe for concurrent use.
//
// The registry holds no lock while a module runs or is compiled.
type Registry struct {
	opts     Options
	host     *wasmhost.Host
	compiler *compiler
	isUsed   atomic.Pointer[func(name string) bool] // see SetIsUsed; nil if it was not called
	ctx      context.Context                        // cancelled by Close
	cancel   context.CancelFunc

	byName           atomic.Pointer[map[string]*plugin] // read without a lock; replaced with mu held
	observingPlugins atomic.Pointer[[]*plugin]          // plugins that take observations

	// Each change of the registry holds the mutex mu. It guards the replacement of byName, the files of uploads,
	// revision, configChanges and uploadsFrozen.
	mu            sync.Mutex
	revision      uint64         // number of changes; see changeAfter
	configChanges uint64         // number of changes by the configuration
	uploadsFrozen bool           // see FreezeUploads
	background    sync.WaitGroup // background compilations and uploads

	poolMu sync.Mutex              // guards pool; held while modules receive pool or are published; locked after mu
	pool   func() []wasmhost.Proxy // see PoolChanged; nil before its first call

	uploads  uploads
	fetchers fetchers
}

// New returns a registry with the built-ins and the uploads of earlier runs. The caller must call Close.
func New(opts Options) (*Registry, error) {
	if opts.MaxFaults == 0 {
		opts.MaxFaults = DefaultMaxFaults
	}
	if opts.Limits == (wasmhost.Limits{}) {
		opts.Limits = wasmhost.DefaultLimits()
	}
	r := &Registry{opts: opts, host: wasmhost.New(opts.Limits, opts.CacheDir), compiler: newCompiler()}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.host.OnCacheError = func(err error) {
		r.opts.Log.Warn("compiled plugins are not kept (plugins.cache_dir): a large one is compiled again at each "+
			"start",
			slog.Any("error", err))
	}
	all := map[string]*plugin{}
	for name, code := range builtin.Modules() {
		v, err := r.loadVersion(name, code, SourceBuiltin, Spec{}, false)
		if err != nil {
			return nil, fmt.Errorf("built-in plugin %s: %w", name, err)
		}
		all[name] = r.newPlugin(name, v)
	}
	r.publishPlugins(all)
	r.restoreUploads()
	return r, nil
}

// SetIsUsed sets the function that reports whether a plugin is in use as first scorer, retry scorer, backoff or judge.
// Observe calls the function for each observation. Without the function, observations go to all plugins.
func (r *Registry) SetIsUsed(isUsed func(name string) bool) { r.isUsed.Store(&isUsed) }

// FreezeUploads makes later changes of the upload files in StateDir fail with state.ErrClosed. It must be called before
// another process uses the folder.
func (r *Registry) FreezeUploads() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.uploadsFrozen = true
}

// Wait waits until all background compilations have ended.
func (r *Registry) Wait() { r.background.Wait() }

// Close closes all modules. A module is freed when its calls in progress have ended.
func (r *Registry) Close() {
	r.cancel()
	r.fetchers.wg.Wait()
	for _, p := range *r.byName.Load() {
		p.close()
	}
	r.background.Wait()
}

func (r *Registry) now() time.Time {
	if r.opts.Now == nil {
		return time.Now()
	}
	return r.opts.Now()
}

func (r *Registry) get(name string) *plugin { return (*r.byName.Load())[name] }

// changeAfter changes the registry. The function prepare runs without a lock, and may refuse the change with an error.
// The function change runs with mu held. If the registry was changed while prepare ran, changeAfter starts again.
func (r *Registry) changeAfter(prepare, change func() error) error {
	for {
		r.mu.Lock()
		revision := r.revision
		r.mu.Unlock()
		if err := prepare(); err != nil {
			return err
		}
		if isCurrent, err := r.changeAt(revision, change); isCurrent {
			return err
		}
	}
}

// changeAt calls the function change with mu held, unless the registry has changed since revision.
func (r *Registry) changeAt(revision uint64, change func() error) (isCurrent bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.revision != revision {
		return false, nil
	}
	return true, change()
}

// publishPlugins replaces the plugins of the registry: it sets revision, byName and observingPlugins. The caller holds
// mu.
func (r *Registry) publishPlugins(plugins map[string]*plugin) {
	observing := []*plugin{}
	for _, name := range slices.Sorted(maps.Keys(plugins)) {
		if plugins[name].current.Load().module.Learns() {
			plugins[name].startObserving()
			observing = append(observing, plugins[name])
		}
	}
	r.revision++
	r.byName.Store(&plugins)
	r.observingPlugins.Store(&observing)
}

// publishVersions passes the pool's proxies to the new versions, replaces the current versions of existing plugins
// (with the function replaceVersions), and publishes the plugins.
func (r *Registry) publishVersions(plugins map[string]*plugin, newVersions []*version, replaceVersions func()) {
	r.poolMu.Lock()
	defer r.poolMu.Unlock()
	r.passPool(newVersions)
	replaceVersions()
	r.publishPlugins(plugins)
}

// PoolChanged passes the proxies of the pool to the plugins that receive them. If there is no such plugin, it does not
// call the function proxies, because the list of a large pool takes memory.
func (r *Registry) PoolChanged(proxies func() []wasmhost.Proxy) {
	r.poolMu.Lock()
	defer r.poolMu.Unlock()
	r.pool = proxies
	all := make([]*version, 0, len(*r.byName.Load()))
	for _, p := range *r.byName.Load() {
		all = append(all, p.current.Load())
	}
	r.passPool(all)
}

// passPool passes the pool's proxies to the versions that receive them. The caller holds poolMu.
func (r *Registry) passPool(versions []*version) {
	versions = slices.DeleteFunc(slices.Clone(versions), func(v *version) bool { return !v.module.WantsPool() })
	if len(versions) == 0 || r.pool == nil {
		return
	}
	proxies := r.pool()
	for _, v := range versions {
		v.module.SetPool(proxies)
	}
}

// Scorer returns the scorer with the given name. If a call of this scorer fails, the built-in scorer with the name
// fallback is called.
func (r *Registry) Scorer(name, fallback string) (core.Scorer, error) {
	return findScorer(*r.byName.Load(), name, fallback)
}

// Backoff returns the backoff with the given name. If a call of this backoff fails, the built-in FallbackBackoff is
// called.
func (r *Registry) Backoff(name string) (core.Backoff, error) {
	return findBackoff(*r.byName.Load(), name)
}

// Judge returns the judge with the given name.
func (r *Registry) Judge(name string) (core.Judge, error) { return findJudge(*r.byName.Load(), name) }

func findJudge(all map[string]*plugin, name string) (core.Judge, error) {
	p, err := findPlugin(all, name, wasmhost.Judge)
	if err != nil {
		return nil, err
	}
	return &Judge{p}, nil
}

func findScorer(all map[string]*plugin, name, fallback string) (core.Scorer, error) {
	p, err := findPlugin(all, name, wasmhost.Scorer)
	if err != nil {
		return nil, err
	}
	return &Scorer{p, all[fallback]}, nil
}

func findBackoff(all map[string]*plugin, name string) (core.Backoff, error) {
	p, err := findPlugin(all, name, wasmhost.Backoff)
	if err != nil {
		return nil, err
	}
	return &Backoff{p, all[FallbackBackoff]}, nil
}

// findPlugin returns the plugin with the given name and kind. An upload that cannot be loaded matches every kind.
func findPlugin(all map[string]*plugin, name string, kind wasmhost.Kind) (*plugin, error) {
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
	return nil, fmt.Errorf("there is no %s named %q%s; there are %s", kind, name, strict.DidYouMean(name, names),
		strings.Join(names, ", "))
}

var nameForm = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,63}$`)

// CheckName returns an error if name is not permitted for a user's plugin.
func CheckName(name string) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("a plugin's name is a lower-case letter and up to 63 lower-case letters, digits, _ or -")
	}
	if builtin.Modules()[name] != nil {
		return fmt.Errorf("%q is built in; give yours another name", name)
	}
	return nil
}

// maxFile is the maximum size of a plugin's file in bytes.
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
