package plugins

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins/output"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// plugin is one plugin of the registry. A version is one of its modules. Only the current version is called. Another
// version can replace it.
type plugin struct {
	name     string
	registry *Registry
	current  atomic.Pointer[version]

	calls     atomic.Uint64 // calls of all functions, including failed calls
	faults    atomic.Uint64
	timeSpent atomic.Int64 // ns spent in calls; an estimate, see timingInterval

	observer observer

	faultMu        sync.Mutex // guards the fields below, and the health of the plugin's versions
	faultsByReason map[string]uint64
	lastError      string
	lastFaultAt    time.Time
	lastLogged     time.Time // time of the last log record about faults
	countsAtLog    counts    // the counts at the last log record about faults
}

type counts struct{ calls, faults uint64 }

// origin holds the data that are needed to load a module again.
type origin struct {
	code   []byte
	sum    string // SHA-256 of code, in hexadecimal
	source string
	spec   Spec
}

// version is one module of a plugin: the current one, a replaced one, or one that is being loaded.
type version struct {
	origin
	module      *wasmhost.Module
	loadedAt    time.Time
	previous    *origin               // the previous module from the same source
	hidesUpload atomic.Bool           // an upload of the same name is used again if the configured plugin is removed
	loadError   atomic.Pointer[error] // the error if the module cannot be loaded; otherwise nil

	notFetched       bool          // the module has not been fetched yet
	fetchedAt        time.Time     // UTC; zero for modules that are not fetched
	signature        []byte        // signature of a fetched module; nil for none
	countedSlowCalls atomic.Uint64 // number of the module's slow calls that have been counted as faults
	quarantined      atomic.Bool
	faults           faultWindow
	output           *output.Output // output of the plugin; shared by all its versions
}

func (r *Registry) newPlugin(name string, v *version) *plugin {
	p := &plugin{name: name, registry: r, faultsByReason: map[string]uint64{}}
	p.observer.done = make(chan struct{})
	p.current.Store(v)
	return p
}

// kind returns the kind of the current version; "" if its module cannot be loaded or has not been fetched.
func (p *plugin) kind() wasmhost.Kind { return p.current.Load().kind() }

func (v *version) kind() wasmhost.Kind {
	if v.notFetched {
		return v.spec.Kind
	}
	return v.module.Description().Kind
}

// canReplace reports whether v may replace the current version of the plugin. Both must have the same kind, because
// other parts of the gateway hold the plugin as a scorer, backoff or judge. If the current version has no module yet,
// or a module that could not be loaded, its kind is unknown. Then v may be a scorer or a judge. If v is a backoff in
// this case, the caller makes a new plugin with the same name. Requests use the new plugin at once, because they look
// up a backoff by name for each call.
func (p *plugin) canReplace(v *version) bool {
	kind := p.kind()
	return kind == v.kind() || kind == "" && v.kind() != wasmhost.Backoff
}

// replaceVersion replaces the plugin's module. Calls in progress are not interrupted: they end in the old module.
func (p *plugin) replaceVersion(v *version) {
	old := p.current.Load()
	if old.loadError.Load() == nil && old.source == v.source {
		previous := old.origin // a copy: a pointer into old would keep all earlier versions in memory
		v.previous = &previous
	}
	p.current.Store(v)
	old.module.Close()
}

// close closes a plugin that was removed from the registry.
func (p *plugin) close() {
	p.observer.close()
	p.current.Load().module.Close()
}

// sha256Of returns the SHA-256 in hexadecimal.
func sha256Of(code []byte) string {
	sum := sha256.Sum256(code)
	return hex.EncodeToString(sum[:])
}

// hostOf returns the host for a version: the host with the version's output and limits.
func (r *Registry) hostOf(v *version) *wasmhost.Host {
	return r.host.WithOutput(v.output).WithLimits(v.spec.Limits.WithDefaults(r.opts.Limits))
}

// loadVersion makes a version of a module. If inBackground is set, it does not wait for a compilation that takes long.
func (r *Registry) loadVersion(
	name string, code []byte, source string, spec Spec, inBackground bool,
) (*version, error) {
	v := &version{origin: origin{code, sha256Of(code), source, spec}, loadedAt: r.now(), output: r.outputOf(name)}
	if spec.SHA256 != "" && !strings.EqualFold(spec.SHA256, v.sum) {
		return nil, &core.KeyError{Key: "sha256", Err: fmt.Errorf("that of %s is %s", spec.origin(), v.sum)}
	}
	var m *wasmhost.Module
	var err error
	if inBackground && wasmhost.IsSlowToCompile(code) {
		m, err = r.loadInBackground(name, code, v)
	} else {
		m, err = r.hostOf(v).Load(code, spec.Config)
	}
	if err != nil {
		return nil, err
	}
	if kind := m.Description().Kind; spec.Kind != "" && spec.Kind != kind {
		m.Close()
		return nil, &core.KeyError{Key: "kind", Err: fmt.Errorf("%s is a %s", spec.origin(), kind)}
	}
	v.module = m
	return v, nil
}

func (r *Registry) loadInBackground(name string, code []byte, v *version) (*wasmhost.Module, error) {
	r.background.Add(1)
	start := r.now()
	m, err := r.hostOf(v).LoadInBackground(code, v.spec.Config, func(err error) {
		defer r.background.Done()
		if errors.Is(err, wasmhost.ErrClosed) { // the plugin was removed before its module was compiled
			return
		}
		if err != nil {
			msg := "plugin does not serve: the built-in is called in its place"
			if v.source == SourceAPI {
				msg, err = unloadableMsg, unloadableError(name, err)
			}
			v.loadError.Store(&err)
			r.opts.Log.Error(msg, slog.String("plugin", name), slog.Any("error", err))
			return
		}
		r.opts.Log.Info("plugin compiled", slog.String("plugin", name), slog.Duration("took", r.now().Sub(start)))
	})
	if err != nil {
		r.background.Done()
	}
	return m, err
}
