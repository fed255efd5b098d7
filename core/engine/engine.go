// Package engine assembles the gateway: New builds its parts from one Config, Serve
// accepts clients, Reload changes a running engine, Shutdown drains it. It is a Go
// library as well: Transport returns an http.RoundTripper that retries through the pool,
// without a port. Start from DefaultConfig, with a registry of package plugins:
//
//	cfg := engine.DefaultConfig()
//	for _, proxy := range []string{"http://user:password@a.example:8080", "socks5://b.example:1080"} {
//		address, err := upstream.ParseAddress(proxy) // or proxylist.Parse, for a whole list
//		if err != nil {
//			return err
//		}
//		cfg.Proxies = append(cfg.Proxies, upstream.Spec{Address: address})
//	}
//	registry, err := plugins.New(plugins.Options{Log: slog.Default()}) // the built-in scorers and backoffs
//	if err != nil {
//		return err
//	}
//	defer registry.Close()
//	e, err := engine.New(cfg, engine.Options{Plugins: registry})
//	if err != nil {
//		return err
//	}
//	defer e.Shutdown(context.Background())
//	client := &http.Client{Transport: e.Transport()}
//
// ExampleEngine_Transport in example_test.go is a whole program.
package engine

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/accesslog"
	"github.com/whirlpool-proxy/whirlpool/core/ban"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/budget"
	"github.com/whirlpool-proxy/whirlpool/core/egress"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/gateway"
	"github.com/whirlpool-proxy/whirlpool/core/health"
	"github.com/whirlpool-proxy/whirlpool/core/loop"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/queue"
	"github.com/whirlpool-proxy/whirlpool/core/reach"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/session"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// The names of built-in scorers. defaultFirst and fallbackRetry are the defaults of Config.FirstScorer and
// Config.RetryScorer. If the first scorer fails, fallbackFirst is called instead. If the retry scorer fails,
// fallbackRetry is called instead.
const (
	defaultFirst  = "exploring"
	fallbackFirst = "least_in_flight"
	fallbackRetry = "performance"
)

// Options are the dependencies of an engine. Only Plugins is required.
type Options struct {
	Plugins      Plugins
	Observe      func(*core.Observation)  // called after each attempt, for plugins that learn; may be nil
	Observes     func() bool              // reports whether Observe needs observations now; nil stands for yes
	OnPoolChange func(*upstream.Snapshot) // called after each change of the pool; may be nil
	// OnTransition receives each transition of a breaker, and OnPolicyChange each change of the global policy; both
	// must return soon and may be nil.
	OnTransition   func(core.Transition)
	OnPolicyChange func(retry.View)
	OnSessionMove  func(session.Move)       // called for each move of a session (session.Table.OnMove); may be nil
	OnBan          func(ban.Pair)           // called for each change of a ban (ban.Table.OnChange); may be nil
	ProbeGate      breaker.ProbeGate        // decides when breakers may admit a probe; nil without a cluster
	OnFailure      func(*upstream.Upstream) // called after each failure that was reported to a breaker; may be nil
	Log            *slog.Logger             // default: none
	AccessLog      gateway.AccessLog        // receives the requests of the gateway's clients; default: none
	Tracer         gateway.Tracer           // decides which requests of the gateway's clients are traced; default: none
	OnTracedCall   func(*accesslog.Record)  // receives each Call that has ended, while the Tracer is on; default: none
	Now            func() time.Time         // default: time.Now
	Rand           func() uint64            // default: math/rand/v2
	Dial           transport.DialFunc       // how sockets to proxies are opened
	RootCAs        *x509.CertPool           // default: the system's
	Files          int                      // maximum number of open file descriptors; 0 if unknown
	// Restore is called once, before anything is counted. It restores metrics and the usage of users; may be nil.
	Restore func(*Engine)
}

// Engine is the gateway without its API. It is safe for concurrent use.
type Engine struct {
	opts      Options
	pool      *upstream.Pool
	policies  *retry.Store
	hedging   *retry.Hedging
	metrics   *metrics.Recorder
	tracker   *metrics.Tracker
	files     *budget.Files
	transport *transport.Transport
	executor  *executor.Executor
	selector  *selector.Selector
	gateway   *gateway.Server
	loops     *loop.Guard
	guard     *access.Guard
	sessions  *session.Table
	reach     *reach.Checker
	health    *health.Checker
	ids       atomic.Uint64
	idKey     uint64

	reloadMu   sync.Mutex // held during a reload
	config     atomic.Pointer[Config]
	egress     atomic.Pointer[egress.Policy]
	configured [3]string // FirstScorer, RetryScorer, Judge of the last Config of New or Reload; guarded by reloadMu
	announced  atomic.Bool
	stop       chan struct{}
	stopOnce   sync.Once
	listeners  []net.Listener // guarded by reloadMu
	wg         sync.WaitGroup

	callsMu    sync.Mutex // guards calls.Add, and the closing of stop
	calls      sync.WaitGroup
	background context.Context // cancelled when calls and background work must end
	endCalls   context.CancelFunc
}

// New checks cfg and builds an engine from cfg.
func New(cfg Config, opts Options) (*Engine, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Rand == nil {
		opts.Rand = rand.Uint64
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	e := &Engine{opts: opts, stop: make(chan struct{}), idKey: opts.Rand(), hedging: &retry.Hedging{}}
	e.background, e.endCalls = context.WithCancel(context.Background())
	e.metrics = metrics.New(metrics.Config{RetentionHours: cfg.RetentionHours, Now: opts.Now})
	e.tracker = metrics.NewTracker()
	e.loops = loop.New(opts.Rand)
	e.loops.SetSendsTokens(!cfg.Literal)
	e.files = budget.NewFiles(opts.Files, opts.Now)
	e.transport = transport.New(transport.Config{
		ConnectTimeout: cfg.ConnectTimeout, Dial: opts.Dial, RootCAs: opts.RootCAs, Files: e.files, Now: opts.Now,
		Rand:         opts.Rand,
		CheckAddress: e.permitAddr, Loop: e.loops,
	})
	e.pool = upstream.NewPool(upstream.PoolConfig{
		Breaker: cfg.Breaker, Literal: cfg.Literal, Memory: cfg.Memory, Now: opts.Now,
		Notify: e.transition, OnRemove: e.transport.CloseIdle, OnChange: opts.OnPoolChange,
		OnFree: func() { e.executor.PlaceFreed() }, NoSlowStart: cfg.NoSlowStart,
		ProbeGate: opts.ProbeGate, OnFailure: opts.OnFailure,
	})
	e.selector = selector.New(e.pool, opts.Rand, cfg.MaxCandidates)
	e.selector.HostBans().OnChange(opts.OnBan)
	e.selector.ProxyBans().OnChange(opts.OnBan)
	tuning, err := e.tuning(&cfg, opts.Plugins)
	if err != nil {
		return nil, err
	}
	e.pool.SetLocate(cfg.Locate)
	e.setLimits(&cfg)
	if err := e.pool.Reconfigure(cfg.breaker(), cfg.Proxies); err != nil {
		return nil, err
	}
	e.setEgress(&cfg)
	e.metrics.SetSources(e.proxyStates, nil, e.tracker.InFlight)
	e.metrics.SetMaxProxies(cfg.MetricProxies)
	e.policies = retry.NewStore(cfg.Retry, opts.Now)
	e.policies.OnChange(opts.OnPolicyChange)
	e.executor = executor.New(e.selector, e.metrics, tuning, opts.Log, opts.Now, opts.Rand)
	e.metrics.SetQueueSource(e.queueStates)
	e.metrics.SetCostSource(e.costStates)
	e.metrics.SetBanSource(func() (pairs, banned int) {
		now := e.pool.Elapsed(e.opts.Now())
		return e.selector.HostBans().Count(now), e.selector.ProxyBans().Count(now)
	})
	e.metrics.SetRuleSource(e.countRules)
	e.guard = access.NewGuard(opts.Now, opts.Log)
	e.sessions = session.NewTable(session.DefaultMax)
	e.sessions.OnMove(opts.OnSessionMove)
	e.metrics.SetLoginSource(e.failedLogins)
	e.gateway = gateway.New(gateway.Config{
		Executor: e.executor, Transport: e.transport, Policies: e.policies, Tracker: tracker{e.tracker},
		OnTunnelEnd: e.metrics.AddTunnelBytes, Guard: e.guard, Sessions: e.sessions, Loop: e.loops,
		Files: e.files, Log: opts.Log, AccessLog: opts.AccessLog, Tracer: opts.Tracer, Now: opts.Now, NewID: e.NewID,
		OnHandshake: e.metrics.AddIntercepted, OnRefused: e.metrics.AddRefused, TargetBytes: e.metrics.CountTargetBytes,
	}, e.settings(&cfg))
	// If descriptors are needed, the budget closes something in this order: an unused pipe, an idle proxy connection, a
	// client connection. A pipe costs least to replace, a client connection most.
	e.files.SetClosers(e.gateway.CloseSparePipe, e.transport.CloseOldestIdle, e.gateway.Evict)
	e.config.Store(&cfg)
	e.configured = [3]string{cfg.FirstScorer, cfg.RetryScorer, cfg.Judge}
	e.reach = reach.New(reach.Config{
		Pool: e.pool, Reach: e.transport.Reach, Now: opts.Now, Parallel: parallelChecks(opts.Files),
	})
	e.reach.SetEnabled(cfg.checksReachability())
	e.health = health.New(health.Config{
		Pool: e.pool, Send: e.transport.Check, Now: opts.Now, Rand: opts.Rand, Log: opts.Log,
		Parallel: parallelChecks(opts.Files),
	})
	e.health.SetSettings(cfg.Health)
	e.metrics.SetCheckSource(e.health.Counts)
	if opts.Restore != nil {
		opts.Restore(e)
	}
	e.wg.Go(func() { e.health.Run(e.background) })
	e.wg.Go(e.runSweeps)
	e.wg.Go(func() { e.reach.Run(e.background) })
	return e, nil
}

// settings returns the settings of cfg for package gateway.
func (e *Engine) settings(cfg *Config) gateway.Settings {
	set := cfg.Gateway
	set.BodyIdle, set.Head, set.Strategies = cfg.BodyIdle, cfg.HeadTimeout, e.HasBackoff
	set.Intercept = e.intercept(&cfg.Intercept)
	return set
}

// tuning validates cfg and returns its settings for the executor.
func (e *Engine) tuning(cfg *Config, plugins Plugins) (executor.Tuning, error) {
	var errs []error
	check := func(key, name string, err error) {
		if err != nil {
			errs = append(errs, &core.KeyError{Key: key, Value: name, Err: err})
		}
	}
	first, err := plugins.Scorer(cfg.FirstScorer, fallbackFirst)
	check("selection.first", cfg.FirstScorer, err)
	retrying, err := plugins.Scorer(cfg.RetryScorer, fallbackRetry)
	check("selection.retry", cfg.RetryScorer, err)
	judge, err := judgeOf(cfg.Judge, plugins)
	check("selection.judge", cfg.Judge, err)
	_, err = plugins.Backoff(cfg.Retry.BackoffStrategy)
	check("retry.backoff_strategy", cfg.Retry.BackoffStrategy, err)
	errs = append(errs, cfg.validate())
	policy, err := egressPolicy(cfg)
	errs = append(errs, err)
	var before *rules.Set
	if e.executor != nil {
		before = e.executor.Rules()
	}
	set, err := compileRules(cfg.Rules, plugins, before)
	if err := errors.Join(append(errs, err)...); err != nil {
		return executor.Tuning{}, err
	}
	t := executor.Tuning{
		CheckTarget: policy.Check, Rules: set,
		FirstScorer: first, RetryScorer: retrying, Backoff: e.backoff, Observe: e.opts.Observe,
		Observes: e.opts.Observes, Judge: judge,
		Budget: retry.NewBudget(cfg.Budget, e.opts.Now()), AttemptTimeout: cfg.AttemptTimeout, Adaptive: cfg.Adaptive,
		Queue: cfg.Queue, Hedging: e.hedging,
	}
	if e.pool != nil {
		t.Epoch = e.pool.Epoch()
	}
	if !cfg.Literal && e.pool != nil {
		t.Targets = e.pool.Ledger()
	}
	if e.selector != nil {
		t.HostBans, t.ProxyBans = e.selector.HostBans(), e.selector.ProxyBans()
		t.HasHostLimits = e.selector.Limits().HasLimit
	}
	return t, nil
}

// judgeOf returns the judge with the given name; nil for NoJudge and "".
func judgeOf(name string, plugins Plugins) (core.Judge, error) {
	if name == "" || name == NoJudge {
		return nil, nil
	}
	judges, ok := plugins.(Judges)
	if !ok {
		return nil, errors.New("these plugins have no judges")
	}
	return judges.Judge(name)
}

func (e *Engine) backoff(strategy string) core.Backoff {
	b, err := e.opts.Plugins.Backoff(strategy)
	if err != nil {
		return nil
	}
	return b
}

// LearnMove records the move of a session that another gateway has reported (session.Table.RecordMove).
func (e *Engine) LearnMove(m session.Move) { e.sessions.RecordMove(m, e.opts.Now()) }

// HasBackoff reports whether a backoff with the given name exists.
func (e *Engine) HasBackoff(name string) bool { return e.backoff(name) != nil }

// Reload validates cfg and then puts it into effect. Requests in flight keep their policy, proxies that stay in the
// pool keep their breakers and statistics, and an unchanged retry budget keeps its balance. Reload takes the plugins
// that cfg names from its second argument, which may have plugins that Options.Plugins lacks. If Reload returns an
// error, nothing has changed. A scorer, judge or backoff that was activated at run time stays active if it still exists
// and its setting in cfg is the same as at the last New or Reload.
func (e *Engine) Reload(cfg Config, plugins Plugins) error {
	e.reloadMu.Lock()
	defer e.reloadMu.Unlock()
	configured, current, policy := [3]string{cfg.FirstScorer, cfg.RetryScorer, cfg.Judge}, e.config.Load(),
		e.policies.Current()
	scorer := func(name string) bool { _, err := plugins.Scorer(name, ""); return err == nil }
	backoff := func(name string) bool { _, err := plugins.Backoff(name); return err == nil }
	judge := func(name string) bool { _, err := judgeOf(name, plugins); return err == nil }
	if configured[0] == e.configured[0] && scorer(current.FirstScorer) {
		cfg.FirstScorer = current.FirstScorer
	}
	if configured[1] == e.configured[1] && scorer(current.RetryScorer) {
		cfg.RetryScorer = current.RetryScorer
	}
	if configured[2] == e.configured[2] && judge(current.Judge) {
		cfg.Judge = current.Judge
	}
	tuning, err := e.tuning(&cfg, plugins)
	if err != nil {
		return err
	}
	if cfg.Budget == current.Budget { // an unchanged budget keeps its balance
		tuning.Budget = e.executor.Tuning().Budget
	}
	if err := e.pool.Reconfigure(cfg.breaker(), cfg.Proxies); err != nil {
		return err
	}
	e.pool.SetLocate(cfg.Locate)
	e.setLimits(&cfg)
	e.setEgress(&cfg)
	e.pool.SetLiteral(cfg.Literal)
	e.loops.SetSendsTokens(!cfg.Literal)
	e.pool.SetMemory(cfg.Memory)
	e.metrics.SetMaxProxies(cfg.MetricProxies)
	e.reach.SetEnabled(cfg.checksReachability())
	e.health.SetSettings(cfg.Health)
	e.policies.ReloadFile(cfg.Retry, backoff)
	e.logReplaced("first", current.FirstScorer, cfg.FirstScorer, scorer)
	e.logReplaced("retry", current.RetryScorer, cfg.RetryScorer, scorer)
	e.logReplaced("judge", current.Judge, cfg.Judge, judge)
	e.logReplaced("backoff", policy.BackoffStrategy, e.policies.Current().BackoffStrategy, backoff)
	e.executor.SetTuning(tuning)
	e.transport.SetConnectTimeout(cfg.ConnectTimeout)
	e.gateway.Apply(e.settings(&cfg))
	e.config.Store(&cfg)
	e.configured = configured
	return nil
}

// logReplaced logs a warning if a plugin was replaced because it does not exist any more.
func (e *Engine) logReplaced(role, oldName, newName string, exists func(string) bool) {
	if oldName != newName && !exists(oldName) {
		e.opts.Log.Warn("a plugin in use has been removed",
			slog.String("for", role), slog.String("plugin", oldName), slog.String("now", newName))
	}
}

// Activate sets the first scorer and the retry scorer by name. If a name is "", that scorer does not change.
func (e *Engine) Activate(first, retrying string) error {
	return e.activate(func(cfg *Config) {
		if first != "" {
			cfg.FirstScorer = first
		}
		if retrying != "" {
			cfg.RetryScorer = retrying
		}
	})
}

// ActivateJudge sets the judge by name; NoJudge ends the judging of responses.
func (e *Engine) ActivateJudge(name string) error {
	return e.activate(func(cfg *Config) { cfg.Judge = name })
}

// activate calls the function change with a copy of the configuration in force. Then it puts the copy into force.
func (e *Engine) activate(change func(*Config)) error {
	e.reloadMu.Lock()
	defer e.reloadMu.Unlock()
	cfg := *e.config.Load()
	change(&cfg)
	tuning, err := e.tuning(&cfg, e.opts.Plugins)
	if err != nil {
		return err
	}
	tuning.Budget = e.executor.Tuning().Budget
	e.executor.SetTuning(tuning)
	e.config.Store(&cfg)
	return nil
}

// The method transition counts, reports and logs a transition of a breaker. It gets the transitions in order.
func (e *Engine) transition(t core.Transition) {
	e.metrics.Transition(t)
	if e.opts.OnTransition != nil {
		e.opts.OnTransition(t)
	}
	level := slog.LevelInfo
	if t.To == core.Open {
		level = slog.LevelWarn
	}
	attrs := []slog.Attr{
		slog.String("proxy_id", t.ProxyID), slog.String("from", t.From.String()), slog.String("to", t.To.String()),
		slog.Int("failure_count", t.FailureCount), slog.String("reason", t.Reason),
	}
	if t.Why != "" {
		attrs = append(attrs, slog.String("why", t.Why))
	}
	e.opts.Log.LogAttrs(context.Background(), level, "circuit breaker "+t.To.String(), attrs...)
}

// NewID returns an id that is unique within this process: a counter mapped by a bijection, the
// finalizer of splitmix64 (Steele, Lea, Flood 2014), with a random key.
func (e *Engine) NewID() core.RequestID {
	z := e.ids.Add(1) ^ e.idKey
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return core.RequestID(z ^ z>>31)
}

// tracker implements gateway.Tracker with a metrics.Tracker.
type tracker struct{ *metrics.Tracker }

func (t tracker) Track() gateway.TrackerEntry { return t.Tracker.Track() }

func (e *Engine) proxyStates() []metrics.ProxyState {
	all := e.pool.Snapshot().All
	out := make([]metrics.ProxyState, 0, len(all))
	for _, u := range all {
		used := u.Total()
		out = append(out, metrics.ProxyState{ID: u.ID(), State: u.Breaker().State(), InFlight: u.InFlight(),
			ShortTunnels: u.ShortTunnels(), Up: used.Up, Down: used.Down, Cost: used.Cost})
	}
	return out
}

func (e *Engine) queueStates() (out []metrics.QueueState) {
	add := func(name string, counts map[core.Priority]queue.Counts) {
		for _, p := range core.Priorities() {
			c := counts[p]
			out = append(out, metrics.QueueState{
				Queue: name, Priority: p.String(),
				Waiting: c.Waiting, Queued: c.Queued, Expired: c.Expired, Full: c.FullRefusals, WaitTime: c.WaitTime,
			})
		}
	}
	places, retries := e.executor.Queues()
	add("place", places)
	add("retry", retries)
	return out
}

// failedLogins calls the function count for each listener, with the number of its failed logins.
func (e *Engine) failedLogins(count func(listener string, failed uint64)) {
	for l := range access.NumListeners {
		count(l.String(), e.guard.Failed(l))
	}
}

// Users returns the users of the gateway with their usage of today (UTC).
func (e *Engine) Users() []access.DailyUsage { return e.gateway.Users() }

// UntilNextDay returns the time until the next day of the users' limits begins (UTC).
func (e *Engine) UntilNextDay(now time.Time) time.Duration { return e.Accounts().UntilNextDay(now) }

// Accounts returns the users of the gateway.
func (e *Engine) Accounts() *access.Users { return e.gateway.Accounts() }

// ServeQueues lets a queued request continue if a proxy now has a place in flight for it, or if the retry budget has a
// retry. It is called after a limit was raised.
func (e *Engine) ServeQueues() { e.executor.ServeQueues() }

// Usage returns the usage of the users, so that the caller can save it.
func (e *Engine) Usage() []access.SavedUsage { return e.gateway.Usage() }

// RestoreUsage sets the usage of users to the usage in an earlier process. Only Options.Restore may call it.
func (e *Engine) RestoreUsage(used []access.SavedUsage) { e.gateway.RestoreUsage(used) }

// Guard returns the guard that delays failed logins. The API uses it, too.
func (e *Engine) Guard() *access.Guard { return e.guard }

// Files returns the file descriptors that the engine shares with other parts of the process; nil for no limit.
func (e *Engine) Files() *budget.Files { return e.files }

// Pool returns the proxies.
func (e *Engine) Pool() *upstream.Pool { return e.pool }

// Policies returns the store of the global retry policy.
func (e *Engine) Policies() *retry.Store { return e.policies }

// Metrics returns the recorder of attempts and requests.
func (e *Engine) Metrics() *metrics.Recorder { return e.metrics }

// Tracker returns the list of requests in flight.
func (e *Engine) Tracker() *metrics.Tracker { return e.tracker }

// Config returns the configuration in force. The caller must not change it.
func (e *Engine) Config() *Config { return e.config.Load() }

// Scorers returns the names of the first scorer and the retry scorer.
func (e *Engine) Scorers() (first, retry string) {
	cfg := e.config.Load()
	return cfg.FirstScorer, cfg.RetryScorer
}

// Judge returns the name of the judge; NoJudge for none.
func (e *Engine) Judge() string {
	if name := e.config.Load().Judge; name != "" {
		return name
	}
	return NoJudge
}

// HostBans returns the pairs of a proxy and a host that are banned now.
func (e *Engine) HostBans() []ban.Pair {
	return e.selector.HostBans().All(e.pool.Elapsed(e.opts.Now()))
}

// Avoided returns pairs of a proxy and a target: requests for the target now avoid the proxy (upstream.Pool.Avoided).
// The Host of a pair is host:port.
func (e *Engine) Avoided() []ban.Pair { return e.pool.Avoided().All(e.pool.Elapsed(e.opts.Now())) }

// Describe fills row with the values that a scorer would get for the proxy u.
func (e *Engine) Describe(u *upstream.Upstream, row *core.Candidate) {
	u.Fill(row, e.pool.Elapsed(e.opts.Now()), 0)
}
