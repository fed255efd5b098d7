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

// plugin is one name. Its module can change.
type plugin struct {
	name     string
	registry *Registry
	current  atomic.Pointer[version]

	calls  atomic.Uint64 // answers and observations, failed ones included
	faults atomic.Uint64
	spent  atomic.Int64 // ns in calls; an estimate (timedEvery)

	observer observer

	faultMu   sync.Mutex // guards the fields below, and the health of its versions
	byReason  map[string]uint64
	lastError string
	lastFault time.Time
	logged    time.Time // when a fault was logged last
	atLog     counts    // the counts at that time
}

type counts struct{ calls, faults uint64 }

// origin is all that it takes to load a module again.
type origin struct {
	code   []byte
	sum    string // SHA-256 of code, in hexadecimal
	source string
	spec   Spec
}

// version is one module that a plugin has or had.
type version struct {
	origin
	module   *wasmhost.Module
	loaded   time.Time
	previous *origin               // the module before, from the same source
	hides    atomic.Bool           // an upload of that name is kept, and serves when this one of the configuration goes
	failed   atomic.Pointer[error] // why the module never serves

	quarantined atomic.Bool
	health      health
	output      *output.Output // of the plugin
}

func (r *Registry) newPlugin(name string, v *version) *plugin {
	p := &plugin{name: name, registry: r, byReason: map[string]uint64{}}
	p.observer.done = make(chan struct{})
	p.current.Store(v)
	return p
}

// kind is "" for an upload that does not load any more.
func (p *plugin) kind() wasmhost.Kind { return p.current.Load().kind() }

func (v *version) kind() wasmhost.Kind { return v.module.Description().Kind }

// takes reports whether callers that hold p can be served by v. They may hold a name without a kind as a scorer; a
// backoff is looked up for each use.
func (p *plugin) takes(v *version) bool {
	was := p.kind()
	return was == v.kind() || was == "" && v.kind() == wasmhost.Scorer
}

// swap replaces the plugin's module. Calls that run end with the old one, later ones go to the new one.
func (p *plugin) swap(v *version) {
	old := p.current.Load()
	if old.failed.Load() == nil && old.source == v.source {
		was := old.origin // a copy: a pointer into old would keep all versions before it
		v.previous = &was
	}
	p.current.Store(v)
	old.module.Close()
}

// retire ends a plugin that has left the registry.
func (p *plugin) retire() {
	p.observer.close()
	p.current.Load().module.Close()
}

// sha256Of returns the SHA-256 of a module in hexadecimal.
func sha256Of(code []byte) string {
	sum := sha256.Sum256(code)
	return hex.EncodeToString(sum[:])
}

// load makes a version from a module's bytes. If begin is set and the module is slow to compile, load returns
// before it is compiled; until then the built-in is used.
func (r *Registry) load(name string, code []byte, source string, spec Spec, begin bool) (*version, error) {
	v := &version{origin: origin{code, sha256Of(code), source, spec}, loaded: r.now(), output: r.outputOf(name)}
	if spec.SHA256 != "" && !strings.EqualFold(spec.SHA256, v.sum) {
		return nil, &core.KeyError{Key: "sha256", Err: fmt.Errorf("that of %s is %s", spec.Path, v.sum)}
	}
	var m *wasmhost.Module
	var err error
	if begin && wasmhost.Slow(code) {
		m, err = r.begin(name, code, v)
	} else {
		m, err = r.host.WithOutput(v.output).Load(code, spec.Config)
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

// begin compiles in the background.
func (r *Registry) begin(name string, code []byte, v *version) (*wasmhost.Module, error) {
	r.background.Add(1)
	begun := r.now()
	m, err := r.host.WithOutput(v.output).Begin(code, v.spec.Config, func(err error) {
		defer r.background.Done()
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
		r.background.Done()
	}
	return m, err
}
