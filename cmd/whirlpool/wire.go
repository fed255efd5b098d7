package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/api"
	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lists"
	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/changes"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/logfold"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/rest"
	"github.com/whirlpool-proxy/whirlpool/core/spool"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/source"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// gateway has the parts of a running process.
type gateway struct {
	source  config.Source
	log     *slog.Logger
	level   *slog.LevelVar
	plugins *plugins.Registry
	engine  *engine.Engine
	api     *api.Server
	started *config.Config // the configuration at the start of the process
	changes *changes.Changes
	events  *api.Events
	lists   *lists.Fetcher
	keeper  *keeper
	access  *accessLog

	reloading sync.Mutex // held during a reload, which takes long if it compiles new plugins

	mu      sync.Mutex       // guards the fields below
	cfg     *config.Config   // in force
	status  api.ReloadStatus // of the last reload
	address string           // the listening address of the gateway
}

// openLog opens the log. Writing a record does not wait for out, which may be slow; w is the writer that buffers the
// records. done writes the records that are still queued.
func openLog(cfg config.Log, out io.Writer) (
	log *slog.Logger, level *slog.LevelVar, w *spool.Writer, done func() error,
) {
	level = &slog.LevelVar{}
	setLevel(level, cfg.Level)
	opts := &slog.HandlerOptions{Level: level}
	w = spool.New(out, func(records int) {
		log.Warn("log records were lost: the output of the log was blocked or failed", slog.Int("records", records))
	})
	var handler slog.Handler = slog.NewTextHandler(w, opts)
	if cfg.Format == "json" {
		handler = slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: inSeconds})
	}
	folding := logfold.New(handler)
	log = slog.New(folding)
	return log, level, w, func() error {
		folding.Flush()
		return w.Close()
	}
}

// inSeconds writes durations in seconds, as the API does. By default slog's JSON writes nanoseconds.
func inSeconds(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.Float64Value(a.Value.Duration().Seconds())
	}
	return a
}

func setLevel(level *slog.LevelVar, name string) {
	var l slog.Level
	if l.UnmarshalText([]byte(name)) == nil {
		level.Set(l)
	}
}

// wire creates the parts of the gateway. program is the executable that checks uploads; "" to check them
// in this process.
func wire(
	src config.Source, cfg *config.Config, log *slog.Logger, level *slog.LevelVar, logTo io.Writer, program string,
) (_ *gateway, err error) {
	g := &gateway{source: src, cfg: cfg, started: cfg, log: log, level: level, access: newAccessLog(logTo, log)}
	access, err := openAccessLog(cfg)
	if err != nil {
		return nil, err
	}
	g.access.use(access)
	g.events = api.NewEvents(time.Now)
	g.requireFile(cfg)
	for _, w := range cfg.Warnings {
		g.log.Warn("configuration: " + w)
	}
	warnOfFormerDir(cfg, log)
	wait := shortWait
	if socketsPassed(os.Getenv) {
		wait = longWait
	}
	if g.keeper, err = openState(cfg, wait, log); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			g.keeper.close()
		}
	}()
	limits := wasmhost.DefaultLimits()
	limits.CallTimeout = time.Duration(cfg.PluginHost.CallTimeout)
	g.lists = lists.NewFetcher(nil, g.keptLists(), log)
	reg, err := plugins.New(plugins.Options{
		Limits: limits, StateDir: g.keeper.path(), CacheDir: g.cacheDir(), MaxFaults: cfg.PluginHost.MaxFaults,
		Log: g.log, OnLine: g.events.PluginLine, OnFault: g.events.PluginFault,
		Fetch: source.NewClient(nil, limits.ModuleBytes).Fetch,
		Check: (&checker{limits, g.cacheDir(), program}).check,
	})
	if err != nil {
		return nil, err
	}
	g.plugins = reg
	change, err := reg.Begin(cfg.Modules())
	if err != nil {
		return nil, withPlaces(cfg, err)
	}
	change.Commit()
	g.changes = changes.New(changes.Options{
		Records: g.keeper.store, IDs: g.keeper.ids, Now: time.Now, Log: g.log,
	})
	err = g.changes.Configure(configuration(cfg), func(proxies []upstream.Spec) (err error) {
		conf := cfg.Engine()
		conf.Proxies = proxies
		g.engine, err = engine.New(conf, engine.Options{
			Plugins: reg, Observe: reg.Observe, Log: g.log, AccessLog: &g.access.Log, Files: openFiles(),
			PoolChanged: func(s *upstream.Snapshot) { reg.PoolChanged(pluginProxies(s)) },
			Transition:  g.events.Transition, PolicyChanged: g.events.PolicyChanged,
			Banned:  func(p rest.Pair) { g.events.Banned(p.ProxyID, p.Host, g.engine.Pool().At(p.Until)) },
			Restore: func(e *engine.Engine) { g.keeper.restore(e, g.log) },
		})
		return err
	})
	if err != nil {
		return nil, withPlaces(cfg, err)
	}
	reg.SetUsed(g.usesPlugin)
	g.changes.Attach(changes.Parts{Engine: g.engine, Pool: g.engine.Pool(), Policies: g.engine.Policies()})
	g.engine.Metrics().Observe(nil, g.pluginStates, nil)
	g.status = api.ReloadStatus{OK: true, At: time.Now().UTC(), Faults: []config.Fault{}, Restart: []string{}}
	g.engine.Metrics().Reloaded(true, time.Now())
	g.api, err = api.New(api.Config{
		Engine: g.engine, Pool: g.engine.Pool(), Targets: g.engine.Pool().Ledger(), Policies: g.engine.Policies(),
		Changes: g.changes, StateDir: g.keeper.path(),
		Metrics: g.engine.Metrics(), Requests: g.engine.Tracker(), Plugins: reg, Running: g.running, Reload: g.reload,
		Activated: g.events.Activated, Events: g.events, Guard: g.engine.Guard(), TLS: cfg.APITLS(),
		Log: g.log, Version: version, Files: g.engine.Files(), Keys: apiKeys(cfg), LoopbackOnly: len(cfg.API.Keys) == 0,
	})
	return g, err
}

// cacheDir returns the folder of compiled plugins. By default it is in the state folder.
func (g *gateway) cacheDir() string {
	if dir := g.started.PluginHost.CacheDir; dir != "" || g.keeper.path() == "" {
		return dir
	}
	return filepath.Join(g.keeper.path(), "cache")
}

// keptLists returns the folder of fetched proxy lists; "" without a state folder.
func (g *gateway) keptLists() string {
	if dir := g.keeper.path(); dir != "" {
		return filepath.Join(dir, "lists")
	}
	return ""
}

// dryRun checks the rules that package config cannot check: that plugins can be loaded, and that names
// exist.
func dryRun(cfg *config.Config) (warnings []string, err error) {
	log := slog.New(slog.DiscardHandler)
	reg, err := plugins.New(plugins.Options{Log: log, StateDir: cfg.State.Dir}) // the configuration may name uploads
	if err != nil {
		return nil, err
	}
	defer reg.Close()
	change, err := reg.Stage(cfg.Modules())
	if err != nil {
		return nil, withPlaces(cfg, err)
	}
	change.Commit()
	if err := engine.Check(cfg.Engine(), reg); err != nil {
		return nil, withPlaces(cfg, err)
	}
	reg.Wait()
	for _, p := range reg.List() {
		if p.State == plugins.StateFailed {
			warnings = append(warnings, fmt.Sprintf("uploaded plugin %s: %s", p.Name, p.LastError))
		}
	}
	return warnings, nil
}

// withPlaces converts an error of the parts to a *config.Error, which has the place of each cause
// in the configuration.
func withPlaces(cfg *config.Config, err error) error {
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	out := &config.Error{}
	for _, err := range all {
		f := cfg.Fault("", nil, err.Error())
		if k := (*core.KeyError)(nil); errors.As(err, &k) {
			f = cfg.Fault(k.Key, k.Value, k.Err.Error())
		}
		out.Faults = append(out.Faults, f)
	}
	return out
}

func apiKeys(cfg *config.Config) []api.Key {
	keys := make([]api.Key, 0, len(cfg.API.Keys))
	for _, k := range cfg.API.Keys {
		keys = append(keys, api.Key{Name: k.Name, Secret: k.Key.Reveal(), Certificate: k.Certificate,
			Admin: k.Role == "admin"})
	}
	return keys
}

func pluginProxies(s *upstream.Snapshot) []wasmhost.Proxy {
	out := make([]wasmhost.Proxy, 0, len(s.All))
	for _, u := range s.All {
		spec := u.Spec()
		out = append(out, wasmhost.Proxy{ID: spec.ID, Region: spec.Region, Weight: spec.Weight, Cost: spec.Cost,
			Metadata: spec.Metadata})
	}
	return out
}

// usesPlugin reports whether a plugin is the first scorer, the retry scorer or the backoff of the policy.
func (g *gateway) usesPlugin(name string) bool {
	first, retry := g.engine.Scorers()
	return name == first || name == retry || name == g.engine.Judge() ||
		name == g.engine.Policies().Current().BackoffStrategy
}

func (g *gateway) pluginStates() []metrics.PluginState {
	list := g.plugins.List()
	out := make([]metrics.PluginState, 0, len(list))
	for _, p := range list {
		own := make(map[string]float64, len(p.Metrics))
		for _, m := range p.Metrics {
			own[m.Name] = m.Value
		}
		out = append(out, metrics.PluginState{Name: p.Name, Calls: p.Calls - p.Faults, Faults: p.Faults,
			FaultsBy: p.FaultsBy, Spent: p.Spent, Missed: p.Missed, Quarantined: p.Quarantined, Own: own})
	}
	return out
}

// running returns the response of GET /config.
func (g *gateway) running() api.Running {
	g.mu.Lock()
	defer g.mu.Unlock()
	return api.Running{Config: g.cfg, Gateway: g.address, Reload: g.status}
}

// reload loads and checks the configuration again and then applies it. If there is an error, nothing changes.
func (g *gateway) reload() api.ReloadStatus {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	cfg, err := g.tryReload()
	status := api.ReloadStatus{OK: err == nil, At: time.Now().UTC(), Faults: faults(err, g.source.File)}
	g.engine.Metrics().Reloaded(err == nil, time.Now())
	g.mu.Lock()
	if err == nil {
		g.cfg = cfg
	}
	status.Restart = needRestart(g.started, g.cfg)
	g.status = status
	g.mu.Unlock()
	g.events.Reloaded(status)
	if err != nil {
		g.log.Error("configuration not reloaded: the previous one stays in force", slog.Any("error", err))
		return status
	}
	g.requireFile(cfg)
	g.lists.Use(cfg.Lists())
	for _, w := range cfg.Warnings {
		g.log.Warn("configuration: " + w)
	}
	if len(status.Restart) > 0 {
		g.log.Warn("these changes take effect at the next start",
			slog.String("keys", strings.Join(status.Restart, ", ")))
	}
	level := slog.LevelInfo
	if cfg.ProxyCount() == 0 { // possibly by mistake, or while a proxy list is being written
		level = slog.LevelWarn
	}
	g.log.Log(context.Background(), level, "configuration reloaded", slog.Int("proxies", cfg.ProxyCount()))
	return status
}

func faults(err error, file string) []config.Fault {
	switch e := err.(type) {
	case nil:
		return []config.Fault{}
	case *config.Error:
		return e.Faults
	}
	return []config.Fault{{File: file, Msg: err.Error()}}
}

// requireFile makes the configuration file required after it has been found once. If the file disappears
// later, a reload then fails, instead of removing all proxies and users.
func (g *gateway) requireFile(cfg *config.Config) {
	if cfg.Found() {
		g.source.Optional = false
	}
}

// needRestart returns the changed keys that take effect only at the next start.
func needRestart(started, cfg *config.Config) []string {
	keys := []string{}
	for _, k := range []struct {
		key     string
		changed bool
	}{
		{"gateway.listen", cfg.Gateway.Listen != started.Gateway.Listen},
		{"api.listen", cfg.API.Listen != started.API.Listen},
		{"selection.max_candidates", cfg.Selection.MaxCandidates != started.Selection.MaxCandidates},
		{"plugins.max_faults", cfg.PluginHost.MaxFaults != started.PluginHost.MaxFaults},
		{"plugins.call_timeout", cfg.PluginHost.CallTimeout != started.PluginHost.CallTimeout},
		{"plugins.cache_dir", cfg.PluginHost.CacheDir != started.PluginHost.CacheDir},
		{"state.dir", cfg.State.Dir != started.State.Dir},
		{"metrics.retention_hours", cfg.Metrics.RetentionHours != started.Metrics.RetentionHours},
		{"log.format", cfg.Log.Format != started.Log.Format},
	} {
		if k.changed {
			keys = append(keys, k.key)
		}
	}
	return keys
}

func (g *gateway) tryReload() (*config.Config, error) {
	src := g.source
	src.Sizes, src.Fetched = g.cfg.Sizes(), g.lists.Data()
	cfg, err := config.Load(src)
	if err != nil {
		return nil, err
	}
	// The API keeps its listening address until the next start, so the address at the start counts.
	if listen := g.started.API.Listen; len(cfg.API.Keys) == 0 && !config.Loopback(listen) {
		return nil, &config.Error{Faults: []config.Fault{cfg.Fault("api.keys", nil,
			"are gone, but until the next start the API listens on "+
				listen+", where it needs them; keep a key, or restart")}}
	}
	access, err := openAccessLog(cfg)
	if err != nil {
		return nil, err
	}
	defer access.discard()
	change, err := g.plugins.Stage(cfg.Modules())
	if err != nil {
		return nil, withPlaces(cfg, err)
	}
	if err := engine.Check(cfg.Engine(), change); err != nil {
		change.Rollback()
		return nil, withPlaces(cfg, err)
	}
	change.Commit()
	err = g.changes.Configure(configuration(cfg), func(proxies []upstream.Spec) error {
		conf := cfg.Engine()
		conf.Proxies = proxies
		return g.engine.Reload(conf, g.plugins)
	})
	if err != nil {
		return nil, err
	}
	g.api.SetTLS(cfg.APITLS())
	g.api.SetKeys(apiKeys(cfg), len(cfg.API.Keys) == 0)
	setLevel(g.level, cfg.Log.Level)
	g.access.use(access)
	return cfg, nil
}
