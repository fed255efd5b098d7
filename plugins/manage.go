package plugins

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// States of a plugin. While it is not ready, the built-in answers for it.
const (
	StateReady       = "ready"
	StateCompiling   = "compiling"   // in the background, after a start
	StateFailed      = "failed"      // a fault keeps it from serving; last_error says which
	StateQuarantined = "quarantined" // too many calls failed in a row
)

func (p *plugin) state(v *version) string {
	switch {
	case v.failed.Load() != nil:
		return StateFailed
	case !v.module.Ready():
		return StateCompiling
	case v.quarantined.Load():
		return StateQuarantined
	}
	return StateReady
}

// canRollBack: what comes from a file is changed there.
func (v *version) canRollBack() bool { return v.source == SourceAPI && v.previous != nil }

// Info is one plugin, for people.
type Info struct {
	Name        string
	Kind        wasmhost.Kind // "" of an upload that does not load any more
	Source      string
	State       string // one of the states
	Path        string
	SHA256      string
	ABIVersion  int
	Size        int // bytes
	Learns      bool
	LoadedAt    time.Time
	Calls       uint64
	Faults      uint64
	FaultsBy    map[string]uint64
	LastError   string
	LastFaultAt time.Time
	Spent       time.Duration // in calls, all together; one call of 17 is measured and stands for all
	Quarantined bool
	CanRollBack bool
	HidesUpload bool // of the same name: it serves again when the configuration's goes
	Description wasmhost.Description
}

func (p *plugin) info() Info {
	v := p.current.Load()
	d := v.module.Description()
	p.mu.Lock()
	defer p.mu.Unlock()
	faults := uint64(0) // before calls, which are counted first: they are never fewer
	for _, n := range p.byReason {
		faults += n
	}
	lastError := p.lastError
	if failed := v.failed.Load(); failed != nil {
		lastError = (*failed).Error()
	}
	return Info{
		Name: p.name, Kind: d.Kind, Source: v.source, State: p.state(v), Path: v.spec.Path, SHA256: v.sum, ABIVersion: d.ABIVersion, Size: d.Size,
		Learns: v.module.Learns(), LoadedAt: v.loaded.UTC(), Calls: p.calls.Load(), Faults: faults,
		FaultsBy: maps.Clone(p.byReason), LastError: lastError, LastFaultAt: p.lastFault.UTC(), Spent: time.Duration(p.spent.Load()), Quarantined: v.quarantined.Load(), CanRollBack: v.canRollBack(), HidesUpload: v.hides.Load(),
		Description: d,
	}
}

// List returns every plugin, by name.
func (r *Registry) List() []Info {
	all := *r.byName.Load()
	out := make([]Info, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, all[name].info())
	}
	return out
}

// Get returns one plugin.
func (r *Registry) Get(name string) (Info, error) {
	p := r.get(name)
	if p == nil {
		return Info{}, notFound(name)
	}
	return p.info(), nil
}

// conflict is a core.ErrConflict in words of its own.
type conflict string

func (c conflict) Error() string { return string(c) }
func (c conflict) Unwrap() error { return core.ErrConflict }

func conflictf(format string, args ...any) error { return conflict(fmt.Sprintf(format, args...)) }

// maxUploads bounds the number of uploaded plugins: their modules stay in memory,
// and on disk.
const maxUploads = 100

func (r *Registry) uploads() (n int) {
	for _, p := range *r.byName.Load() {
		if p.current.Load().source == SourceAPI {
			n++
		}
	}
	return n
}

func notFound(name string) error { return fmt.Errorf("plugin %q %w", name, core.ErrNotFound) }

// Put loads a module under a name: with replace in place of the one that has the
// name, else under a new name. A nil config keeps the settings of the one before;
// an empty one does not. The error is a *wasmhost.CheckError when the module is at
// fault; it wraps core.ErrNotFound when there is none to replace, and
// core.ErrConflict when the name is taken or cannot be changed.
func (r *Registry) Put(name string, code []byte, config map[string]any, replace bool) (Info, error) {
	r.uploading.Lock()
	defer r.uploading.Unlock()
	if err := CheckName(name); err != nil {
		return Info{}, &wasmhost.CheckError{Msg: err.Error()}
	}
	var v *version
	allowed := func() error {
		p := r.get(name)
		switch {
		case p != nil && p.current.Load().source == SourceConfig:
			return conflictf("plugin %q comes from the configuration, and is changed there", name)
		case p != nil && !replace:
			return conflictf("plugin %q exists; PUT replaces it", name)
		case p == nil && replace:
			return notFound(name)
		case p == nil && r.uploads() >= maxUploads:
			return conflictf("%d plugins are uploaded; delete one first", maxUploads)
		case p != nil && v != nil && p.kind() != "" && p.kind() != v.kind():
			return &wasmhost.CheckError{Msg: fmt.Sprintf("%q is a %s; a %s needs another name", name, p.kind(), v.kind())}
		}
		return nil
	}
	if err := allowed(); err != nil {
		return Info{}, err
	}
	if p := r.get(name); p != nil && config == nil { // a new build keeps the settings
		config = p.current.Load().spec.Config
	}
	var err error
	if v, err = r.load(name, code, SourceAPI, Spec{Config: config}, false); err != nil {
		return Info{}, err
	}
	return r.take(name, v, allowed)
}

// take keeps an upload and puts it in its place, if that is still allowed: while
// it was being compiled, the name may have been given to another.
func (r *Registry) take(name string, v *version, allowed func() error) (Info, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := allowed()
	if err == nil {
		err = r.save(name, v)
	}
	if err != nil {
		v.module.Close()
		return Info{}, err
	}
	return r.install(name, v).info(), nil
}

// install requires mu.
func (r *Registry) install(name string, v *version) *plugin {
	all := *r.byName.Load()
	p := all[name]
	if p != nil && p.takes(v) {
		r.enter(all, []*version{v}, func() { p.swap(v) })
		return p
	}
	all = maps.Clone(all)
	all[name] = r.newPlugin(name, v)
	r.enter(all, []*version{v}, func() {})
	return all[name]
}

// Delete removes an uploaded plugin, even one that a plugin of the configuration
// hides. inUse names what still uses it.
func (r *Registry) Delete(name string, inUse func(name string) string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.get(name)
	if p == nil {
		return notFound(name)
	}
	switch v := p.current.Load(); {
	case v.hides.Load():
		err := r.unsave(name)
		v.hides.Store(err != nil)
		return err
	case v.source != SourceAPI:
		return conflictf("plugin %q was not uploaded, so it is not deleted here", name)
	}
	if by := inUse(name); by != "" {
		return conflictf("plugin %q is in use as %s; activate another first", name, by)
	}
	if err := r.unsave(name); err != nil { // it would be there again after a restart
		return err
	}
	all := maps.Clone(*r.byName.Load())
	delete(all, name)
	r.publish(all)
	p.current.Load().module.Close()
	return nil
}

// RollBack puts the module before the current one back in its place.
func (r *Registry) RollBack(name string) (Info, error) {
	r.uploading.Lock()
	defer r.uploading.Unlock()
	var to origin
	allowed := func() error {
		p := r.get(name)
		if p == nil {
			return notFound(name)
		}
		cur := p.current.Load()
		if !cur.canRollBack() {
			return conflictf("plugin %q has no earlier upload to go back to", name)
		}
		to = *cur.previous
		return nil
	}
	if err := allowed(); err != nil {
		return Info{}, err
	}
	v, err := r.load(name, to.code, to.source, to.spec, false)
	if err != nil {
		return Info{}, err
	}
	return r.take(name, v, allowed)
}

// Release ends a plugin's quarantine.
func (r *Registry) Release(name string) (Info, error) {
	p := r.get(name)
	if p == nil {
		return Info{}, notFound(name)
	}
	v := p.current.Load()
	v.inARow.Store(0)
	v.deaf.Store(0)
	v.quarantined.Store(false)
	return p.info(), nil
}

// TestScorer asks a scorer for scores without anybody using them.
func (r *Registry) TestScorer(name string, c core.Candidates) ([]float64, error) {
	p, err := find(*r.byName.Load(), name, wasmhost.Scorer)
	if err != nil {
		return nil, notFound(name)
	}
	scores := make([]float64, c.Len())
	return scores, p.current.Load().module.Score(c, scores)
}

// TestBackoff asks a backoff for a delay without anybody waiting.
func (r *Registry) TestBackoff(name string, q *core.BackoffRequest) (float64, error) {
	p, err := find(*r.byName.Load(), name, wasmhost.Backoff)
	if err != nil {
		return 0, notFound(name)
	}
	return p.current.Load().module.Delay(q)
}
