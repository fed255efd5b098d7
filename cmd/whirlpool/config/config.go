// Package config loads Whirlpool's configuration: defaults, then a TOML file, then the environment, then flags. The
// values of each source replace the values of the sources before it. The package reports all errors in the
// configuration, each with file, line, key and value. No other package imports koanf.
package config

import (
	"crypto/tls"
	"encoding"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/geo"
	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/otlp"
	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/accesslog"
	"github.com/whirlpool-proxy/whirlpool/core/cluster/redisstore"
	"github.com/whirlpool-proxy/whirlpool/core/egress"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/gateway"
	"github.com/whirlpool-proxy/whirlpool/core/intercept"
	"github.com/whirlpool-proxy/whirlpool/core/metrics/push"
	"github.com/whirlpool-proxy/whirlpool/core/queue"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// Config is the effective configuration. Its JSON form is the response to GET /config, and masks secrets.
type Config struct {
	Gateway     Gateway        `koanf:"gateway" json:"gateway"`
	API         API            `koanf:"api" json:"api"`
	Egress      Egress         `koanf:"egress" json:"egress"`
	Proxies     []Proxy        `koanf:"proxies" json:"proxies"`
	Pool        Pool           `koanf:"pool" json:"pool"`
	Retry       map[string]any `koanf:"retry" json:"-"`
	Policy      retry.Policy   `koanf:"-" json:"retry"` // decoded from Retry
	RetryBudget RetryBudget    `koanf:"retry_budget" json:"retry_budget"`
	Queue       Queue          `koanf:"queue" json:"queue"`
	Timeouts    Timeouts       `koanf:"timeouts" json:"timeouts"`
	Breaker     Breaker        `koanf:"breaker" json:"breaker"`
	Health      Health         `koanf:"health" json:"health"`
	Geo         Geo            `koanf:"geo" json:"geo"`
	Selection   Selection      `koanf:"selection" json:"selection"`
	Limits      []Limit        `koanf:"limits" json:"limits"`
	Rules       []Rule         `koanf:"rules" json:"rules"`
	Intercept   Intercept      `koanf:"intercept" json:"intercept"`
	Plugins     map[string]any `koanf:"plugins" json:"-"`
	PluginHost  PluginHost     `koanf:"-" json:"plugins"` // decoded from Plugins
	State       State          `koanf:"state" json:"state"`
	Cluster     Cluster        `koanf:"cluster" json:"cluster"`
	Metrics     Metrics        `koanf:"metrics" json:"metrics"`
	Traces      Traces         `koanf:"traces" json:"traces"`
	Log         Log            `koanf:"log" json:"log"`

	gatewayTLS, apiTLS *tls.Config          // nil without TLS
	authority          *intercept.Authority // nil without interception

	geo           *geo.DB         // nil without geo.mmdb
	specs         []upstream.Spec // proxies from Proxies and from the proxy lists; nil after ReleaseProxies
	releasedCount int             // length of specs when ReleaseProxies was called
	files         []string        // files that were read, such as proxy lists, except the configuration file
	fileFound     bool            // the configuration file exists and has been read
	sizes         map[string]int  // sizes in bytes, by path, of the files that were read and are not empty
	locateFault   func(key string, value any, msg string) Fault
	Readings      []Reading `koanf:"-" json:"-"`        // readings of the proxy lists, in configured order
	Warnings      []string  `koanf:"-" json:"warnings"` // skipped lines of proxy lists, and variables without effect
}

// Gateway is the [gateway] section.
type Gateway struct {
	Listen         string   `koanf:"listen" json:"listen"`
	Users          []User   `koanf:"users" json:"users"`
	TLS            TLS      `koanf:"tls" json:"tls,omitzero"`
	Override       string   `koanf:"override" json:"override,omitempty"` // "": capped if there are users, else any
	ReplayLimit    Size     `koanf:"replay_limit" json:"replay_limit" range:"0,1GiB"`
	ReplayMemory   Size     `koanf:"replay_memory" json:"replay_memory" range:"0,1024GiB"`
	MaxConnections int      `koanf:"max_connections" json:"max_connections" range:"0,16777216"`
	MaxPerClient   int      `koanf:"max_connections_per_client" json:"max_connections_per_client" range:"0,16777216"`
	MinBodyRate    int      `koanf:"min_body_rate" json:"min_body_rate" range:"0,1000000000"` // bytes per second
	DrainDelay     Duration `koanf:"drain_delay" json:"drain_delay" range:"0s,1h"`
	DrainGrace     Duration `koanf:"drain_grace" json:"drain_grace" range:"0s,1h"`
	Via            bool     `koanf:"via" json:"via"`
}

// User is a user of the gateway.
type User struct {
	Name         string          `koanf:"name" json:"name"`
	Password     upstream.Secret `koanf:"password" json:"password"`                     // a plain text or a hash
	PasswordFile string          `koanf:"password_file" json:"password_file,omitempty"` // used if Password is ""
	Priority     string          `koanf:"priority" json:"priority,omitempty"`           // maximum; "" for no limit
	Override     string          `koanf:"override" json:"override,omitempty"`           // "" for gateway.override

	// Limits; see access.Limits.
	Allow          []string `koanf:"allow" json:"allow,omitempty"`
	Deny           []string `koanf:"deny" json:"deny,omitempty"`
	Regions        []string `koanf:"regions" json:"regions,omitempty"`
	MaxInFlight    int      `koanf:"max_in_flight" json:"max_in_flight,omitempty" range:"0,16777216"`
	RequestsPerDay int64    `koanf:"requests_per_day" json:"requests_per_day,omitempty" range:"0,1000000000000"`
	BytesPerDay    Size     `koanf:"bytes_per_day" json:"bytes_per_day,omitempty" range:"0,1024GiB"`
}

// The method limits returns the limits of the user. The caller must have checked the values of Priority and Override.
func (u *User) limits() access.Limits {
	priority, _ := core.ParsePriority(u.Priority) // "" means no limit
	return access.Limits{
		Priority: priority, Override: overrideMode(u.Override), Allow: u.Allow, Deny: u.Deny, Regions: u.Regions,
		MaxInFlight: u.MaxInFlight, RequestsPerDay: u.RequestsPerDay, BytesPerDay: int64(u.BytesPerDay),
	}
}

func overrideMode(name string) retry.OverrideMode {
	mode, _ := retry.ParseOverrideMode(name) // the name was checked
	return mode
}

// Egress is the [egress] section; see egress.Config.
type Egress struct {
	Allow   []string `koanf:"allow" json:"allow"`
	Deny    []string `koanf:"deny" json:"deny"`
	Default string   `koanf:"default" json:"default"`
}

// API is the [api] section.
type API struct {
	Listen string `koanf:"listen" json:"listen"`
	TLS    TLS    `koanf:"tls" json:"tls,omitzero"`
	Keys   []Key  `koanf:"keys" json:"keys"`
}

// Key is a key of the API. A client logs in with Key, or with a client certificate that has the name Certificate.
type Key struct {
	Name        string          `koanf:"name" json:"name"`
	Key         upstream.Secret `koanf:"key" json:"key"`
	Certificate string          `koanf:"certificate" json:"certificate,omitempty"`
	Role        string          `koanf:"role" json:"role"`
}

// RetryBudget is the [retry_budget] section.
type RetryBudget struct {
	Ratio        float64 `koanf:"ratio" json:"ratio" range:"0,1000"`
	MinPerSecond float64 `koanf:"min_per_second" json:"min_per_second" range:"0,1000000000"`
}

// Queue is the [queue] section.
type Queue struct {
	MaxWaiting int      `koanf:"max_waiting" json:"max_waiting" range:"0,1000000"`
	MaxWait    Duration `koanf:"max_wait" json:"max_wait" range:"0s,10m"`
}

// Timeouts is the [timeouts] section.
type Timeouts struct {
	Connect  Duration `koanf:"connect" json:"connect" range:"10ms,10m"`
	Attempt  Duration `koanf:"attempt" json:"attempt" range:"10ms,1h"`
	Adaptive bool     `koanf:"adaptive" json:"adaptive"`
	BodyIdle Duration `koanf:"body_idle" json:"body_idle" range:"100ms,24h"`
	Head     Duration `koanf:"head" json:"head" range:"100ms,1h"` // time to receive the head of a client's request
}

// Selection is the [selection] section.
type Selection struct {
	First         string   `koanf:"first" json:"first"`
	Retry         string   `koanf:"retry" json:"retry"`
	Judge         string   `koanf:"judge" json:"judge"`
	Memory        Duration `koanf:"memory" json:"memory" range:"0s,24h"`
	TierAttempts  int      `koanf:"tier_attempts" json:"tier_attempts" range:"1,11"`
	MaxCandidates int      `koanf:"max_candidates" json:"max_candidates" range:"1,65536"`
}

// Geo is the [geo] section.
type Geo struct {
	MMDB string `koanf:"mmdb" json:"mmdb"` // "" for none
}

// State is the [state] section.
type State struct {
	Dir string `koanf:"dir" json:"dir"` // "" for none

	// Implied is set if state.dir is not configured. Dir is then a folder beside the configuration file, or "" if
	// there is no configuration file.
	Implied bool `koanf:"-" json:"-"`
}

// Cluster is the [cluster] section.
type Cluster struct {
	URL  StoreURL `koanf:"url" json:"url"`   // URL of the store; "" for no cluster
	Name string   `koanf:"name" json:"name"` // name of the cluster
	Node string   `koanf:"node" json:"node"` // name of this gateway; "" for a name made from the host name

	Limits string `koanf:"limits" json:"limits"` // LimitsShared or LimitsPerNode
}

// The values of cluster.limits. LimitsShared: a limit of a user or proxy holds for all nodes together. LimitsPerNode:
// the limit holds for each node separately.
const (
	LimitsShared  = "shared"
	LimitsPerNode = "node"
)

// StoreURL is the URL of a cluster's store. Its text form has no credentials.
type StoreURL string

// MarshalText leaves out the credentials.
func (u StoreURL) MarshalText() ([]byte, error) {
	if u == "" {
		return nil, nil
	}
	return []byte(redisstore.Redacted(string(u))), nil
}

// Metrics is the [metrics] section. The maximum in the tag of RetentionHours is metrics.MaxRetentionHours.
type Metrics struct {
	RetentionHours int `koanf:"retention_hours" json:"retention_hours" range:"1,168"`
	MaxProxies     int `koanf:"max_proxies" json:"max_proxies" range:"0,10000"`

	// The push of metrics; see push.Settings.
	PushInterval Duration `koanf:"push_interval" json:"push_interval" range:"1s,1h"`
	Statsd       string   `koanf:"statsd" json:"statsd"`
	StatsdPrefix string   `koanf:"statsd_prefix" json:"statsd_prefix"`
	M3           string   `koanf:"m3" json:"m3"`
	M3Service    string   `koanf:"m3_service" json:"m3_service"`
	M3Env        string   `koanf:"m3_env" json:"m3_env"`
}

// PushSettings returns the settings of the push of metrics.
func (c *Config) PushSettings() push.Settings {
	m := &c.Metrics
	return push.Settings{Interval: time.Duration(m.PushInterval), Statsd: m.Statsd, StatsdPrefix: m.StatsdPrefix,
		M3: m.M3, M3Service: m.M3Service, M3Env: m.M3Env}
}

// Traces is the [traces] section; see otlp.Settings.
type Traces struct {
	Endpoint CheckURL `koanf:"endpoint" json:"endpoint"`
	Ratio    float64  `koanf:"ratio" json:"ratio" range:"0,1"`
}

// TraceSettings returns the settings of the exporter of traces.
func (c *Config) TraceSettings() otlp.Settings {
	return otlp.Settings{Endpoint: string(c.Traces.Endpoint), Ratio: c.Traces.Ratio}
}

// Log is the [log] section.
type Log struct {
	Level  string `koanf:"level" json:"level"`
	Format string `koanf:"format" json:"format"`

	// The access log: its filter (accesslog.ParseFilter), its format, and its file. If AccessFile is "", the access
	// log goes to the output of the log.
	Access       string `koanf:"access" json:"access"`
	AccessFormat string `koanf:"access_format" json:"access_format"`
	AccessFile   string `koanf:"access_file" json:"access_file"`
}

// Default returns the configuration with the default value of every key.
func Default() Config {
	d := engine.DefaultConfig()
	return Config{
		Gateway: Gateway{Listen: "127.0.0.1:8888", Users: []User{}, ReplayLimit: Size(d.Gateway.ReplayLimit),
			ReplayMemory:   Size(d.Gateway.ReplayMemory),
			MaxConnections: d.Gateway.MaxConnections, MaxPerClient: d.Gateway.MaxPerClient,
			MinBodyRate: int(d.Gateway.MinBodyRate), DrainGrace: Duration(30 * time.Second)},
		Egress:  Egress{Allow: []string{}, Deny: []string{}, Default: egress.DefaultAllow},
		API:     API{Listen: "127.0.0.1:8889", Keys: []Key{}},
		Proxies: []Proxy{}, Pool: Pool{Files: []PoolFile{}, URLs: []ListURL{}}, Policy: d.Retry,
		RetryBudget: RetryBudget{Ratio: d.Budget.Ratio, MinPerSecond: d.Budget.MinPerSecond},
		Queue:       Queue{MaxWaiting: d.Queue.MaxWaiting, MaxWait: Duration(d.Queue.MaxWait)},
		Timeouts: Timeouts{Connect: Duration(d.ConnectTimeout), Attempt: Duration(d.AttemptTimeout),
			Adaptive: d.Adaptive, BodyIdle: Duration(d.BodyIdle),
			Head: Duration(d.HeadTimeout)},
		Breaker: Breaker{
			FailureThreshold: d.Breaker.FailureThreshold, Blame: BlameEvidence,
			WindowDuration: Duration(d.Breaker.WindowDuration), TimeoutDuration: Duration(d.Breaker.TimeoutDuration),
			MaxTimeout: Duration(d.Breaker.MaxTimeout),
		},
		Health: Health{Reachability: d.Reachability, Interval: Duration(d.Health.Interval), Jitter: d.Health.Jitter,
			Timeout: Duration(d.Health.Timeout)},
		Selection: Selection{First: d.FirstScorer, Retry: d.RetryScorer, Judge: d.Judge, Memory: Duration(d.Memory),
			MaxCandidates: d.MaxCandidates, TierAttempts: d.TierAttempts},
		Limits: []Limit{}, Rules: []Rule{}, Intercept: Intercept{Exclude: []string{}},
		PluginHost: PluginHost{
			MaxFaults: plugins.DefaultMaxFaults, CallTimeout: Duration(wasmhost.DefaultCallTimeout),
			Modules: map[string]Plugin{},
		},
		State:   State{Implied: true},
		Cluster: Cluster{Name: "whirlpool", Limits: LimitsShared},
		Traces:  Traces{Ratio: 1},
		Metrics: Metrics{RetentionHours: d.RetentionHours, MaxProxies: d.MetricProxies,
			PushInterval: Duration(10 * time.Second), StatsdPrefix: "whirlpool", M3Service: "whirlpool",
			M3Env: "production"},
		Log:      Log{Level: "info", Format: "text", Access: "off", AccessFormat: accesslog.JSON},
		Warnings: []string{},
	}
}

// Engine returns the configuration of the engine.
func (c *Config) Engine() engine.Config {
	users := make([]gateway.User, 0, len(c.Gateway.Users))
	for _, u := range c.Gateway.Users {
		users = append(users, gateway.User{Name: u.Name, Password: u.Password.Reveal(), Limits: u.limits()})
	}
	return engine.Config{
		Proxies: c.specs, Retry: c.Policy, Egress: egress.Config(c.Egress),
		Budget:         retry.BudgetConfig{Ratio: c.RetryBudget.Ratio, MinPerSecond: c.RetryBudget.MinPerSecond},
		Queue:          queue.Config{MaxWaiting: c.Queue.MaxWaiting, MaxWait: time.Duration(c.Queue.MaxWait)},
		Breaker:        c.Breaker.config(),
		Literal:        c.Breaker.Blame == BlameLiteral,
		Reachability:   c.Health.Reachability,
		Health:         c.Health.settings(),
		ConnectTimeout: time.Duration(c.Timeouts.Connect), AttemptTimeout: time.Duration(c.Timeouts.Attempt),
		Adaptive: c.Timeouts.Adaptive, BodyIdle: time.Duration(c.Timeouts.BodyIdle),
		HeadTimeout: time.Duration(c.Timeouts.Head),
		FirstScorer: c.Selection.First, RetryScorer: c.Selection.Retry, Judge: c.Selection.Judge,
		Limits:         c.limitList(),
		Rules:          c.ruleList(),
		Intercept:      engine.Intercept{Authority: c.authority, Exclude: c.Intercept.Exclude},
		Memory:         time.Duration(c.Selection.Memory),
		Locate:         c.locateExit(),
		TierAttempts:   c.Selection.TierAttempts,
		MaxCandidates:  c.Selection.MaxCandidates,
		RetentionHours: c.Metrics.RetentionHours,
		MetricProxies:  c.Metrics.MaxProxies,
		Gateway: gateway.Settings{
			Users: users, Override: overrideMode(c.Gateway.Override), TLS: c.gatewayTLS,
			Via: c.Gateway.Via, ReplayLimit: int64(c.Gateway.ReplayLimit),
			ReplayMemory:   int64(c.Gateway.ReplayMemory),
			MaxConnections: c.Gateway.MaxConnections,
			MaxPerClient:   c.Gateway.MaxPerClient,
			MinBodyRate:    int64(c.Gateway.MinBodyRate),
		},
	}
}

// Files returns the paths of the files that the configuration refers to: the files that were read with it, such as
// proxy lists, and the modules of plugins.
func (c *Config) Files() []string {
	out := append([]string{}, c.files...)
	for _, name := range slices.Sorted(maps.Keys(c.PluginHost.Modules)) {
		if path := c.PluginHost.Modules[name].Path; path != "" {
			out = append(out, path)
		}
	}
	return out
}

// Found reports whether the configuration file was found. It may be missing if Source.Optional was set.
func (c *Config) Found() bool { return c.fileFound }

// Sizes returns the sizes in bytes of the files that were read, by path: the configuration file, proxy lists and
// others. Empty files are left out.
func (c *Config) Sizes() map[string]int { return c.sizes }

// ProxyCount returns the number of configured proxies, including the proxies of proxy lists.
func (c *Config) ProxyCount() int { return max(len(c.specs), c.releasedCount) }

// HasFile reports whether the configuration was read from a file. A file that may be missing (Source.Optional) is
// none if it does not exist.
func (c *Config) HasFile() bool { return c.fileFound }

// ReleaseProxies frees the memory of the configured proxies. After that, Engine returns no proxies. The result of
// ProxyCount stays the same.
func (c *Config) ReleaseProxies() { c.releasedCount, c.specs = c.ProxyCount(), nil }

// If a type did not implement its interface, the decoder or the encoder would use the underlying type, such as an
// integer for a Duration.
var (
	_ strict.ValueDecoder    = (*Duration)(nil)
	_ strict.ValueDecoder    = (*Size)(nil)
	_ encoding.TextMarshaler = Duration(0)
	_ encoding.TextMarshaler = Address("")
	_ encoding.TextMarshaler = CheckURL("")
	_ encoding.TextMarshaler = ListAddress("")
)

// Loopback reports whether a listening address is a loopback address, which only this machine can reach.
func Loopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
