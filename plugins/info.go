package plugins

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/plugins/output"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// The states of a plugin. Requests call the module of a plugin only in StateReady. In all other states, the built-in is
// called in place of a scorer or a backoff.
const (
	StateReady       = "ready"
	StateFetching    = "fetching"    // the plugin's module has not been fetched yet
	StateCompiling   = "compiling"   // the module is being compiled in the background, after the start of the gateway
	StateFailed      = "failed"      // the module cannot be loaded; last_error has the reason
	StateQuarantined = "quarantined" // too many calls failed
)

func (v *version) state() string {
	switch {
	case v.loadError.Load() != nil:
		return StateFailed
	case v.notFetched:
		return StateFetching
	case !v.module.IsReady():
		return StateCompiling
	case v.quarantined.Load():
		return StateQuarantined
	}
	return StateReady
}

// Info describes one plugin at one time.
type Info struct {
	Name               string
	Kind               wasmhost.Kind // "" for an upload that cannot be loaded any more
	Source             string        // SourceBuiltin, SourceConfig or SourceAPI
	State              string        // one of the states above, such as StateReady
	Path               string        // path of the module's file, if the source is the configuration
	SHA256             string        // SHA-256 of the module, in hexadecimal
	ABIVersion         int
	Size               int       // size of the module in bytes
	Learns             bool      // the module exports observe
	LoadedAt           time.Time // UTC
	Calls              uint64    // calls of all functions, including failed calls
	Faults             uint64    // number of plugin faults: failed calls and slow calls
	FaultsBy           map[string]uint64
	LastError          string
	LastFaultAt        time.Time     // UTC; zero without a fault
	MissedObservations uint64        // observations discarded because the queue was full
	TimeSpent          time.Duration // estimate of the time spent in all calls
	Quarantined        bool
	CanRollBack        bool
	HidesUpload        bool // if this configured plugin is removed, an upload of the same name is used again
	Description        wasmhost.Description
	Settings           []SettingValue  // settings that the module declares; nil for none
	Metrics            []output.Metric // metrics that the plugin writes
	Fetch              *FetchStatus    // nil unless the configuration gives a url
}

func (p *plugin) info() Info {
	v := p.current.Load()
	d := v.module.Description()
	p.faultMu.Lock()
	defer p.faultMu.Unlock()
	faults := uint64(0) // read before calls, so that Faults is at most Calls
	for _, n := range p.faultsByReason {
		faults += n
	}
	lastError := p.lastError
	if failed := v.loadError.Load(); failed != nil {
		lastError = (*failed).Error()
	}
	var fetch *FetchStatus
	if f := p.registry.fetchers.get(p.name); f != nil {
		fetch = f.currentStatus()
	}
	return Info{
		Name: p.name, Kind: v.kind(), Source: v.source, State: v.state(), Path: v.spec.Path, SHA256: v.sum,
		ABIVersion: d.ABIVersion, Size: d.Size, Learns: v.module.Learns(), LoadedAt: v.loadedAt.UTC(),
		Calls: p.calls.Load(), Faults: faults, FaultsBy: maps.Clone(p.faultsByReason), LastError: lastError,
		LastFaultAt: p.lastFaultAt.UTC(), MissedObservations: p.observer.missedCount.Load(),
		TimeSpent:   time.Duration(p.timeSpent.Load()),
		Quarantined: v.quarantined.Load(), CanRollBack: v.canRollBack(), HidesUpload: v.hidesUpload.Load(),
		Description: d,
		Settings:    v.settings(), Metrics: v.output.Metrics(), Fetch: fetch,
	}
}

// List returns all plugins, sorted by name.
func (r *Registry) List() []Info {
	all := *r.byName.Load()
	out := make([]Info, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, all[name].info())
	}
	return out
}

// Get returns one plugin. The error wraps core.ErrNotFound.
func (r *Registry) Get(name string) (Info, error) {
	p := r.get(name)
	if p == nil {
		return Info{}, r.notFound(name)
	}
	return p.info(), nil
}

// notFound returns the error for a name that no plugin has. It suggests a similar name.
func (r *Registry) notFound(name string) error {
	// The names are sorted, so that the same name is suggested each time.
	names := slices.Sorted(maps.Keys(*r.byName.Load()))
	names = slices.DeleteFunc(names, func(existing string) bool { return existing == name })
	return fmt.Errorf("plugin %q %w%s", name, core.ErrNotFound, strict.DidYouMean(name, names))
}

// TestScorer calls a scorer and returns the scores. The call has no effect on requests.
func (r *Registry) TestScorer(name string, c core.Candidates) ([]float64, error) {
	p, err := findPlugin(*r.byName.Load(), name, wasmhost.Scorer)
	if err != nil {
		return nil, r.notFound(name)
	}
	scores := make([]float64, c.Len())
	return scores, p.current.Load().module.Score(c, scores)
}

// TestBackoff calls a backoff and returns the delay in seconds. The call has no effect on requests.
func (r *Registry) TestBackoff(name string, q *core.BackoffRequest) (float64, error) {
	p, err := findPlugin(*r.byName.Load(), name, wasmhost.Backoff)
	if err != nil {
		return 0, r.notFound(name)
	}
	return p.current.Load().module.Delay(q)
}

// TestJudge calls a judge and returns the ruling. The call has no effect on requests. The function sample returns a
// response with the parts that the judge asks for.
func (r *Registry) TestJudge(
	name string, sample func(*core.ExcerptSpec) (*core.JudgeRequest, *core.Excerpt),
) (core.Ruling, error) {
	p, err := findPlugin(*r.byName.Load(), name, wasmhost.Judge)
	if err != nil {
		return core.Ruling{}, r.notFound(name)
	}
	m := p.current.Load().module
	wants := m.ExcerptSpec()
	if wants == nil {
		return core.Ruling{}, wasmhost.ErrNotReady
	}
	return m.Rule(sample(wants))
}
