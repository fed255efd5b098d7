package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/egress"
	"github.com/whirlpool-proxy/whirlpool/core/gateway"
	"github.com/whirlpool-proxy/whirlpool/core/health"
	"github.com/whirlpool-proxy/whirlpool/core/limit"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/queue"
	"github.com/whirlpool-proxy/whirlpool/core/reach"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Config is the part of the configuration that the engine uses. Reload replaces the whole Config, except for
// fields marked (start), which only New uses.
type Config struct {
	Proxies        []upstream.Spec // the engine keeps the slice: do not change it after New and Reload
	Retry          retry.Policy
	Budget         retry.BudgetConfig
	Queue          queue.Config // limits of the queues
	Breaker        breaker.Config
	Literal        bool // breakers count every failure and ignore the evidence (breaker.blame = "literal")
	ConnectTimeout time.Duration
	AttemptTimeout time.Duration
	Adaptive       bool // adaptive timeouts are on
	BodyIdle       time.Duration
	HeadTimeout    time.Duration // maximum time for the head of a client's request
	FirstScorer    string        // scorer of first attempts
	RetryScorer    string        // scorer of retries
	Judge          string        // judge of responses; NoJudge or "" for none
	Limits         []limit.Entry // the entries of [[limits]]
	Rules          []rules.Rule  // routing rules, and response rules, which are applied before the judge
	Reachability   bool          // make reachability checks; without effect if Literal is set
	Health         health.Settings
	NoSlowStart    bool          // for measurements: new proxies have no limit on attempts in flight (start)
	Memory         time.Duration // time that an attempt stays in a proxy's statistics; 0 for no limit
	MaxCandidates  int           // (start)
	TierAttempts   int           // see selector.SetTierAttempts
	RetentionHours int           // (start)
	MetricProxies  int           // maximum number of named proxies in the metrics (Recorder.SetMaxProxies)
	Gateway        gateway.Settings
	Egress         egress.Config // the targets to which requests may go

	Locate    func(netip.Addr) string // returns the region of an exit address; nil if regions are only configured
	Intercept Intercept
}

// DefaultConfig returns the defaults, without proxies.
func DefaultConfig() Config {
	return Config{
		Retry: retry.DefaultPolicy(), Budget: retry.BudgetConfig{MinPerSecond: 10}, Breaker: breaker.Default(),
		Queue:          queue.DefaultConfig(),
		ConnectTimeout: 3 * time.Second, AttemptTimeout: 10 * time.Second, BodyIdle: time.Minute,
		HeadTimeout: 10 * time.Second,
		Health:      health.DefaultSettings(),
		Adaptive:    true, Reachability: true, FirstScorer: defaultFirst, RetryScorer: fallbackRetry, Judge: NoJudge,
		Memory: upstream.DefaultMemory, MaxCandidates: selector.DefaultMaxCandidates,
		TierAttempts:   selector.DefaultTierAttempts,
		RetentionHours: metrics.DefaultRetentionHours, MetricProxies: metrics.DefaultMaxProxies,
		Gateway: gateway.Settings{
			ReplayLimit: 1 << 20, ReplayMemory: 256 << 20, MaxConnections: 20_000, MaxPerClient: 17_500,
			MinBodyRate: 100,
		},
	}
}

// Plugins returns scorers and backoffs by name. A returned scorer or backoff stays valid if its module is replaced
// later. If a scorer fails, the scorer that the parameter fallback names is called instead.
type Plugins interface {
	Scorer(name, fallback string) (core.Scorer, error)
	Backoff(name string) (core.Backoff, error)
}

// Judges is an optional interface of Plugins: it returns judges by name.
type Judges interface {
	Judge(name string) (core.Judge, error)
}

// NoJudge is the name for no judge: responses are not judged.
const NoJudge = "none"

// breaker returns the breaker settings of the pool.
func (c *Config) breaker() breaker.Config { return c.Breaker.WithAttemptTimeout(c.AttemptTimeout) }

func (c *Config) checksReachability() bool { return c.Reachability && !c.Literal }

// parallelChecks returns the maximum number of simultaneous checks of one kind (reachability checks or health checks).
// It is at most an eighth of the maximum number of open file descriptors (files; 0 if unknown).
func parallelChecks(files int) int {
	if files == 0 {
		return reach.DefaultParallel
	}
	return max(min(files/8, reach.DefaultParallel), 1)
}

// validate validates a Config that a Go program has made. A Config from a file has already been
// validated.
func (c *Config) validate() error {
	var field *retry.FieldError
	if err := c.Retry.Validate(func(string) bool { return true }); errors.As(err, &field) {
		return &core.KeyError{Key: "retry." + field.Field, Err: errors.New(field.Msg)}
	}
	if err := c.breaker().Validate(); err != nil {
		return &core.KeyError{Key: "breaker", Err: err}
	}
	for key, d := range map[string]time.Duration{
		"attempt": c.AttemptTimeout, "body_idle": c.BodyIdle, "head": c.HeadTimeout,
	} {
		if d <= 0 {
			return &core.KeyError{Key: "timeouts." + key, Value: d, Err: errors.New("must be above 0")}
		}
	}
	if c.Queue.MaxWaiting < 0 {
		return &core.KeyError{
			Key: "queue.max_waiting", Value: c.Queue.MaxWaiting, Err: errors.New("must not be negative"),
		}
	}
	if c.Queue.MaxWait < 0 {
		return &core.KeyError{Key: "queue.max_wait", Value: c.Queue.MaxWait, Err: errors.New("must not be negative")}
	}
	for i, u := range c.Gateway.Users {
		if err := access.CheckPassword(u.Password); err != nil {
			return &core.KeyError{Key: fmt.Sprintf("gateway.users[%d].password", i), Err: err}
		}
		for key, rules := range map[string][]string{"allow": u.Allow, "deny": u.Deny} {
			if err := access.CheckRules(rules); err != nil {
				return &core.KeyError{Key: fmt.Sprintf("gateway.users[%d].%s", i, key), Err: err}
			}
		}
		if u.Priority > core.PriorityLow {
			return &core.KeyError{
				Key: fmt.Sprintf("gateway.users[%d].priority", i), Value: u.Priority,
				Err: errors.New("must be PriorityHigh, PriorityNormal or PriorityLow"),
			}
		}
	}
	if faults := c.Health.Check(); c.Health.URL != "" && len(faults) > 0 {
		return &core.KeyError{Key: "health." + faults[0].Key, Err: errors.New(faults[0].Msg)}
	}
	if c.TierAttempts < 1 {
		return &core.KeyError{
			Key: "selection.tier_attempts", Value: c.TierAttempts, Err: errors.New("must be at least 1"),
		}
	}
	if err := checkLimits(c.Limits); err != nil {
		return err
	}
	if err := c.Intercept.check(c.Rules); err != nil {
		return err
	}
	if c.Memory < 0 {
		return &core.KeyError{Key: "selection.memory", Value: c.Memory, Err: errors.New("must not be negative")}
	}
	return nil
}

// Check returns the error that New and Reload would return for cfg.
func Check(cfg Config, plugins Plugins) error {
	e := &Engine{opts: Options{Plugins: plugins, Now: time.Now}}
	_, err := e.tuning(&cfg, plugins)
	return errors.Join(err, upstream.Check(cfg.Proxies))
}
