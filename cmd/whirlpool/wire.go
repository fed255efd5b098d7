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
	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/memory"
	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/otlp"
	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ban"
	"github.com/whirlpool-proxy/whirlpool/core/changes"
	"github.com/whirlpool-proxy/whirlpool/core/cluster/redisstore"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/logfold"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/metrics/push"
	"github.com/whirlpool-proxy/whirlpool/core/spool"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/source"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// gateway is the running gateway with all its parts.
type gateway struct {
	source      config.Source
	log         *slog.Logger
	level       *slog.LevelVar
	plugins     *plugins.Registry
	engine      *engine.Engine
	api         *api.Server
	startConfig *config.Config // the configuration at the start of the process
	changes     *changes.Changes
	events      *api.Events
	lists       *lists.Fetcher
	state       *stateKeeper
	accessLog   *accessLog
	traces      *otlp.Exporter
	cluster     *clusterNode // nil without a cluster
	push        *push.Pusher
	growth      *memory.Growth

	reloadMu sync.Mutex // held during a reload; a reload takes long if it compiles new plugins

	mu         sync.Mutex       // guards the fields below
	cfg        *config.Config   // the configuration in force
	lastReload api.ReloadStatus // the result of the last reload
	address    string           // the listening address of the gateway
}

// openLog opens the log. A buffer (w) holds the records until they are written, because the output may be slow.
// closeLog writes the buffered records. If many records have the same message, the records beyond an allowance are
// counted and not written. For the messages in folding, only the first records of a flood are written (see package
// logfold).
func openLog(cfg config.Log, out io.Writer, folding ...logfold.Rule) (
	log *slog.Logger, level *slog.LevelVar, w *spool.Writer, closeLog func() error,
) {
	level = &slog.LevelVar{}
	setLevel(level, cfg.Level)
	opts := &slog.HandlerOptions{Level: level}
	w = spool.New(out, func(records int, err error) {
		log.Warn("log records were lost: the output of the log was blocked or failed",
			lostAttrs("records", records, err)...)
	})
	var handler slog.Handler = slog.NewTextHandler(w, opts)
	if cfg.Format == "json" {
		handler = slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: durationInSeconds})
	}
	folded := logfold.New(handler, folding...)
	log = slog.New(folded)
	return log, level, w, func() error {
		folded.Flush()
		return w.Close()
	}
}

// firstLogins is the number of failed logins of a client as one user that have records of their own in a flood. A
// program that blocks clients by the log, such as fail2ban, counts these records.
const firstLogins = 10

// logRules returns the messages about requests that fail, with which clients can flood the log. With breaker.blame =
// "literal", the messages of version 0.1 are not among them: each request with such a message has its own record, up to
// logfold.Burst.
func logRules(cfg *config.Config) []logfold.Rule {
	login := []string{"listener", "client", "user"}
	rules := []logfold.Rule{
		{Message: "request refused", Keys: []string{"error"}, First: 1},
		{Message: "target denied", Keys: []string{"host"}, First: 1},
		{Message: "a request came back", Keys: []string{"host"}, First: 1},
		{Message: "a SOCKS5 connection came back", Keys: []string{"error"}, First: 1},
		{Message: "login failed", Keys: login, First: firstLogins},
		{Message: "login refused without a check", Keys: login, First: firstLogins},
		{Message: "login refused because of an option in the user name", Keys: []string{"listener", "user"},
			First: firstLogins},
	}
	if cfg.Breaker.Blame == config.BlameLiteral {
		return rules
	}
	return append(rules, logfold.Rule{Message: "no proxy admissible", Keys: []string{"error"}, First: 1},
		logfold.Rule{Message: "request failed", Keys: []string{"outcome", "reason", "host"}, First: 1})
}

// durationInSeconds converts a duration to seconds, as in the API. The JSON of slog would have nanoseconds.
func durationInSeconds(_ []string, a slog.Attr) slog.Attr {
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

// wire creates the parts of the gateway. The parameter program is the executable that checks modules (checker.program).
func wire(
	src config.Source, cfg *config.Config, log *slog.Logger, level *slog.LevelVar, logOutput io.Writer, program string,
) (_ *gateway, err error) {
	g := &gateway{source: src, cfg: cfg, startConfig: cfg, log: log, level: level,
		accessLog: newAccessLog(logOutput, log),
		growth:    &memory.Growth{}}
	access, err := openAccessLog(cfg)
	if err != nil {
		return nil, err
	}
	g.accessLog.replaceFile(access)
	g.traces = otlp.New(version, log)
	g.traces.Configure(cfg.TraceSettings())
	defer func() {
		if err != nil {
			g.traces.Close()
		}
	}()
	g.events = api.NewEvents(time.Now)
	g.requireFile(cfg)
	for _, w := range cfg.Warnings {
		g.log.Warn("configuration: " + w)
	}
	warnOfFormerDir(cfg, log)
	lockTimeout := shortLockTimeout
	if socketsPassed(os.Getenv) {
		lockTimeout = longLockTimeout
	}
	if g.state, err = openState(cfg, lockTimeout, log); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			g.state.close()
		}
	}()
	if g.cluster, err = openCluster(cfg, g.log, g.events.Audited); err != nil {
		return nil, locateErrors(cfg, &core.KeyError{Key: "cluster.url", Err: err})
	}
	limits := wasmhost.DefaultLimits()
	limits.CallTimeout = time.Duration(cfg.PluginHost.CallTimeout)
	g.lists = lists.NewFetcher(nil, g.listDir(), log)
	reg, err := plugins.New(plugins.Options{
		Limits: limits, StateDir: g.state.path(), CacheDir: g.cacheDir(), MaxFaults: cfg.PluginHost.MaxFaults,
		Log: g.log, OnUpload: g.cluster.shareUpload, OnLine: g.events.PluginLine, OnFault: g.events.PluginFault,
		Fetch: source.NewClient(nil, limits.ModuleBytes).Fetch,
		Check: (&checker{limits, g.cacheDir(), program}).check,
	})
	if err != nil {
		return nil, err
	}
	g.plugins = reg
	if err := reg.ApplyAtStart(cfg.Modules()); err != nil {
		return nil, locateErrors(cfg, err)
	}
	g.changes = changes.New(changes.Options{
		Records: g.state.store, IDs: g.state.ids, Now: time.Now, Log: g.log,
	})
	err = g.changes.Configure(changeableConfig(cfg), func(proxies []upstream.Spec) (err error) {
		conf := cfg.Engine()
		conf.Proxies = proxies
		opts := engine.Options{
			Plugins: reg, Observe: reg.Observe, Observes: reg.Observes, Log: g.log,
			AccessLog: &requestLog{&g.accessLog.Log, g.traces}, Tracer: g.traces,
			OnTracedCall: g.traces.Write,
			Files:        openFileLimit(),
			OnPoolChange: func(s *upstream.Snapshot) {
				reg.PoolChanged(func() []wasmhost.Proxy { return pluginProxies(s) })
				g.growth.SetProxies(len(s.All))
			},
			OnTransition: g.events.Transition, OnPolicyChange: g.events.PolicyChanged,
			OnBan:   func(p ban.Pair) { g.events.ProxyBanned(p.ProxyID, p.Host, g.engine.Pool().TimeAt(p.Until)) },
			Restore: func(e *engine.Engine) { g.state.restore(e, g.log) },
		}
		g.cluster.setOptions(&opts)
		g.engine, err = engine.New(conf, opts)
		return err
	})
	if err != nil {
		return nil, locateErrors(cfg, err)
	}
	cfg.ReleaseProxies()
	g.engine.Tracker().SetObserver(g.events)
	reg.SetIsUsed(g.usesPlugin)
	g.changes.Attach(changes.Parts{Engine: g.engine, Pool: g.engine.Pool(), Policies: g.engine.Policies()})
	g.cluster.attach(g.engine, g.changes, reg, g.useOfPlugin, g.state.path())
	g.engine.Metrics().SetSources(nil, g.pluginStates, nil)
	g.push = push.New(g.engine.Metrics().Gather, log)
	g.lastReload = api.ReloadStatus{OK: true, At: time.Now().UTC(), Faults: []config.Fault{}, Restart: []string{}}
	g.engine.Metrics().RecordReload(true, time.Now())
	g.api, err = api.New(api.Config{
		Engine: g.engine, Pool: g.engine.Pool(), Targets: g.engine.Pool().Ledger(), Policies: g.engine.Policies(),
		Changes: g.apiChanges(), Cluster: g.cluster.api(), Store: redisstore.Redacted(string(cfg.Cluster.URL)),
		StateDir: g.state.path(),
		Metrics:  g.engine.Metrics(), Requests: g.engine.Tracker(), Plugins: reg, Running: g.runningConfig,
		Reload:       g.reload,
		OnActivation: g.events.PluginActivated, Events: g.events, Guard: g.engine.Guard(), TLS: cfg.APITLS(),
		Limits: apiLimits(cfg), Log: g.log, Version: version, Files: g.engine.Files(), Keys: apiKeys(cfg),
		LoopbackOnly: len(cfg.API.Keys) == 0,
	})
	return g, err
}

// apiLimits returns the limits for clients of the API. They are the same as for clients of the gateway.
func apiLimits(cfg *config.Config) api.Limits {
	return api.Limits{
		Head: time.Duration(cfg.Timeouts.Head), BodyIdle: time.Duration(cfg.Timeouts.BodyIdle),
		MinBodyRate: int64(cfg.Gateway.MinBodyRate),
	}
}

// apiChanges returns the functions through which the API makes changes. In a cluster, they make a change on all nodes.
func (g *gateway) apiChanges() api.Changes {
	if g.cluster == nil {
		return g.changes
	}
	return sharedChanges{g.changes, g.cluster}
}

// cacheDir returns the folder for compiled plugins: plugins.cache_dir or, if that is not set, a folder in the state
// folder. It returns "" if there is neither.
func (g *gateway) cacheDir() string {
	if dir := g.startConfig.PluginHost.CacheDir; dir != "" || g.state.path() == "" {
		return dir
	}
	return filepath.Join(g.state.path(), "cache")
}

// listDir returns the folder of saved proxy lists; "" without a state folder.
func (g *gateway) listDir() string {
	if dir := g.state.path(); dir != "" {
		return filepath.Join(dir, "lists")
	}
	return ""
}

// checkParts checks that the plugins can be loaded, and that the configuration names only plugins that exist. It
// returns a warning for each uploaded plugin that cannot be used.
func checkParts(cfg *config.Config) (warnings []string, err error) {
	log := slog.New(slog.DiscardHandler)
	reg, err := plugins.New(plugins.Options{Log: log, StateDir: cfg.State.Dir}) // StateDir has uploaded plugins
	if err != nil {
		return nil, err
	}
	defer reg.Close()
	if err := applyPlugins(reg, cfg); err != nil {
		return nil, err
	}
	reg.Wait()
	for _, p := range reg.List() {
		if p.State == plugins.StateFailed {
			warnings = append(warnings, fmt.Sprintf("uploaded plugin %s: %s", p.Name, p.LastError))
		}
	}
	return warnings, nil
}

// locateErrors converts an error of a part of the gateway to a *config.Error. For each error that is joined in err, the
// *config.Error has a fault with file and line.
func locateErrors(cfg *config.Config, err error) error {
	out := &config.Error{}
	for _, err := range splitErrors(err) {
		f := cfg.Fault("", nil, err.Error())
		if k := (*core.KeyError)(nil); errors.As(err, &k) {
			f = cfg.Fault(k.Key, k.Value, k.Err.Error())
		}
		out.Faults = append(out.Faults, f)
	}
	return out
}

// splitErrors returns the errors that errors.Join has joined in err, at any depth.
func splitErrors(err error) (all []error) {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	for _, err := range joined.Unwrap() {
		all = append(all, splitErrors(err)...)
	}
	return all
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
		out = append(out, wasmhost.Proxy{ID: spec.ID, Region: u.Region(), Weight: spec.Weight, Cost: spec.Cost,
			Metadata: spec.Extra().Metadata})
	}
	return out
}

// usesPlugin reports whether the gateway uses a plugin: as the first scorer, as the retry scorer, as the judge, as the
// backoff of the global policy, or in a rule.
func (g *gateway) usesPlugin(name string) bool {
	firstScorer, retryScorer := g.engine.Scorers()
	ruleSet := g.engine.Rules()
	return ruleSet.UsesScorer(name) || ruleSet.UsesBackoff(name) || name == firstScorer || name == retryScorer ||
		name == g.engine.Judge() ||
		name == g.engine.Policies().Current().BackoffStrategy
}

// useOfPlugin returns a text that states how the gateway uses a plugin; "" if the gateway does not use it.
func (g *gateway) useOfPlugin(name string) string {
	if g.usesPlugin(name) {
		return "a scorer, backoff or judge here"
	}
	return ""
}

func (g *gateway) pluginStates() []metrics.PluginState {
	list := g.plugins.List()
	out := make([]metrics.PluginState, 0, len(list))
	for _, p := range list {
		values := make(map[string]float64, len(p.Metrics))
		for _, m := range p.Metrics {
			values[m.Name] = m.Value
		}
		out = append(out, metrics.PluginState{Name: p.Name, Calls: p.Calls - p.Faults, Faults: p.Faults,
			FaultsBy: p.FaultsBy, CallTime: p.TimeSpent, MissedObservations: p.MissedObservations,
			Quarantined: p.Quarantined, OwnMetrics: values})
	}
	return out
}

// runningConfig returns the response to GET /config.
func (g *gateway) runningConfig() api.RunningConfig {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := api.RunningConfig{Config: g.cfg, Gateway: g.address, Reload: g.lastReload}
	if g.cfg.HasFile() {
		c.File = g.source.File
	}
	return c
}

// reload loads, checks and applies the configuration. After an error, the previous configuration stays in force.
func (g *gateway) reload() api.ReloadStatus {
	g.reloadMu.Lock()
	defer g.reloadMu.Unlock()
	defer g.growth.BeginLoading(memory.Free)()
	cfg, err := g.loadAndApply()
	status := api.ReloadStatus{OK: err == nil, At: time.Now().UTC(), Faults: faultsOf(err, g.source.File)}
	g.engine.Metrics().RecordReload(err == nil, time.Now())
	g.mu.Lock()
	if err == nil {
		g.cfg = cfg
	}
	status.Restart = keysForRestart(g.startConfig, g.cfg)
	g.lastReload = status
	g.mu.Unlock()
	g.events.ConfigReloaded(status)
	if err != nil {
		g.log.Error("configuration not reloaded: the previous one stays in force", slog.Any("error", err))
		return status
	}
	g.requireFile(cfg)
	g.lists.SetSources(cfg.Lists())
	for _, w := range cfg.Warnings {
		g.log.Warn("configuration: " + w)
	}
	if len(status.Restart) > 0 {
		g.log.Warn("these changes take effect at the next start",
			slog.String("keys", strings.Join(status.Restart, ", ")))
	}
	level := slog.LevelInfo
	if cfg.ProxyCount() == 0 { // possibly a mistake, or a proxy list is being written
		level = slog.LevelWarn
	}
	g.log.Log(context.Background(), level, "configuration reloaded", slog.Int("proxies", cfg.ProxyCount()))
	return status
}

func faultsOf(err error, file string) []config.Fault {
	switch e := err.(type) {
	case nil:
		return []config.Fault{}
	case *config.Error:
		return e.Faults
	}
	return []config.Fault{{File: file, Msg: err.Error()}}
}

// requireFile makes the configuration file required for later loads, if cfg was read from a file. Without this, a
// reload after the deletion of the file would remove all proxies and users.
func (g *gateway) requireFile(cfg *config.Config) {
	if cfg.Found() {
		g.source.Optional = false
	}
}

// keysForRestart returns the keys that differ in the two configurations and take effect only at the next start.
func keysForRestart(startConfig, cfg *config.Config) []string {
	keys := []string{}
	for _, k := range []struct {
		key     string
		changed bool
	}{
		{"gateway.listen", cfg.Gateway.Listen != startConfig.Gateway.Listen},
		{"api.listen", cfg.API.Listen != startConfig.API.Listen},
		{"selection.max_candidates", cfg.Selection.MaxCandidates != startConfig.Selection.MaxCandidates},
		{"plugins.max_faults", cfg.PluginHost.MaxFaults != startConfig.PluginHost.MaxFaults},
		{"plugins.call_timeout", cfg.PluginHost.CallTimeout != startConfig.PluginHost.CallTimeout},
		{"plugins.cache_dir", cfg.PluginHost.CacheDir != startConfig.PluginHost.CacheDir},
		{"state.dir", cfg.State.Dir != startConfig.State.Dir},
		{"metrics.retention_hours", cfg.Metrics.RetentionHours != startConfig.Metrics.RetentionHours},
		{"cluster", cfg.Cluster != startConfig.Cluster},
		{"log.format", cfg.Log.Format != startConfig.Log.Format},
	} {
		if k.changed {
			keys = append(keys, k.key)
		}
	}
	return keys
}

func (g *gateway) loadAndApply() (*config.Config, error) {
	src := g.source
	src.Sizes, src.Fetched, src.ShareTexts = g.cfg.Sizes(), g.lists.Data(), g.engine.Pool().ShareTexts
	cfg, err := config.Load(src)
	if err != nil {
		return nil, err
	}
	// A new api.listen takes effect only at the next start, so this check uses the address at which the API listens
	// now.
	if listen := g.startConfig.API.Listen; len(cfg.API.Keys) == 0 && !config.Loopback(listen) {
		return nil, &config.Error{Faults: []config.Fault{cfg.Fault("api.keys", nil,
			"are gone, but until the next start the API listens on "+
				listen+", where it needs them; keep a key, or restart")}}
	}
	access, err := openAccessLog(cfg)
	if err != nil {
		return nil, err
	}
	defer access.closeUnused()
	if err := applyPlugins(g.plugins, cfg); err != nil {
		return nil, err
	}
	err = g.cluster.reload(func(shared func(key string) *changes.SharedChange) error {
		changeable := changeableConfig(cfg)
		changeable.Shared = shared
		return g.changes.Configure(changeable, func(proxies []upstream.Spec) error {
			conf := cfg.Engine()
			conf.Proxies = proxies
			return g.engine.Reload(conf, g.plugins)
		})
	})
	if err != nil {
		return nil, err
	}
	cfg.ReleaseProxies()
	g.api.SetTLS(cfg.APITLS())
	g.api.SetLimits(apiLimits(cfg))
	g.api.SetKeys(apiKeys(cfg), len(cfg.API.Keys) == 0)
	setLevel(g.level, cfg.Log.Level)
	g.accessLog.replaceFile(access)
	g.traces.Configure(cfg.TraceSettings())
	g.push.Configure(cfg.PushSettings())
	return cfg, nil
}

// applyPlugins puts the plugins of the configuration into the registry, unless the configuration names a plugin that
// does not exist.
func applyPlugins(reg *plugins.Registry, cfg *config.Config) error {
	err := reg.Apply(cfg.Modules(), func(c *plugins.Change) error { return engine.Check(cfg.Engine(), c) })
	if err != nil {
		return locateErrors(cfg, err)
	}
	return nil
}
