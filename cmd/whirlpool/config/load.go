package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	tomlparser "github.com/knadh/koanf/parsers/toml/v2"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/v2"
	"github.com/pelletier/go-toml/v2"

	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/proxylist"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/strictjson"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Source says where a configuration comes from.
type Source struct {
	File      string   // TOML; "" for none
	Optional  bool     // File need not exist
	Environ   []string // as os.Environ
	Overrides map[string]any
	Proxies   []string // files of --proxies
	Stdin     []byte   // what standard input brought, for Stdin among Proxies
	URLs      []string // of --proxy
	Once      bool     // it is not loaded again: its files may be pipes
}

// Fault is one thing wrong with a configuration.
type Fault struct {
	File  string `json:"file"`
	Line  int    `json:"line,omitempty"` // 0 when it is not in the file
	Key   string `json:"key"`
	Value string `json:"value,omitempty"` // never a secret
	Msg   string `json:"message"`
}

func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d", f.Line)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(f.Key)
	if f.Value != "" {
		b.WriteString(" = " + f.Value)
	}
	if f.Key != "" {
		b.WriteString(": ")
	}
	b.WriteString(f.Msg)
	return b.String()
}

// Error is every fault of a configuration.
type Error struct{ Faults []Fault }

func (e *Error) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// envPrefix begins the name of each variable that overrides a key:
// WHIRLPOOL_SECTION__KEY, and WHIRLPOOL_PROXIES, which is a list of tables.
const envPrefix = "WHIRLPOOL_"

// loader reads one configuration.
type loader struct {
	src     Source
	lines   map[string]int
	fromEnv map[string]string // key -> the variable that set it
	faults  []Fault
	cfg     Config
}

// Load reads and checks a configuration whole. Its error is an *Error.
func Load(src Source) (*Config, error) {
	l := &loader{src: src, cfg: Default(), fromEnv: map[string]string{}}
	tree := l.read()
	if len(l.faults) == 0 {
		decode("", tree, reflect.ValueOf(&l.cfg).Elem(), l.fault)
		l.policy()
		l.plugins()
		l.check()
		l.proxies()
	}
	if len(l.faults) > 0 {
		return nil, &Error{l.faults}
	}
	l.cfg.place = l.place
	return &l.cfg, nil
}

// read merges file, environment and flags.
func (l *loader) read() map[string]any {
	k := koanf.New(".")
	var proxies any // of the file; koanf copies what it holds, which takes its time where they are thousands
	if l.src.File != "" {
		doc, err := l.readFile(l.src.File)
		switch {
		case errors.Is(err, fs.ErrNotExist) && l.src.Optional:
		case err != nil:
			l.faults = append(l.faults, Fault{File: l.src.File, Msg: err.Error()})
		default:
			l.cfg.found = true
			doc = bytes.TrimPrefix(doc, []byte("\ufeff"))
			l.lines = keyLines(doc)
			tree, err := tomlparser.Parser().Unmarshal(doc)
			if err != nil {
				l.syntax(err)
			}
			proxies = tree["proxies"]
			delete(tree, "proxies")
			if err := k.Load(confmap.Provider(tree, ""), nil); err != nil {
				l.syntax(err)
			}
		}
	}
	meant := closeKeys()
	environ := env.Provider(".", env.Opt{
		Prefix: envPrefix, EnvironFunc: func() []string { return l.src.Environ },
		TransformFunc: func(name, value string) (string, any) {
			key := strings.ToLower(strings.TrimPrefix(name, envPrefix))
			if !strings.Contains(key, "__") && key != "proxies" {
				if right := meant[key]; right != "" {
					l.cfg.Warnings = append(l.cfg.Warnings, fmt.Sprintf("the environment variable %s sets nothing; did you mean %s%s?", name, envPrefix, strings.ToUpper(right)))
				}
				return "", nil // WHIRLPOOL_SOMETHING that is not ours
			}
			key = strings.ReplaceAll(key, "__", ".")
			if _, flag := l.src.Overrides[key]; !flag {
				l.fromEnv[key] = name
			}
			return key, envValue(value)
		},
	})
	for _, err := range []error{k.Load(environ, nil), k.Load(confmap.Provider(l.src.Overrides, "."), nil)} {
		if err != nil {
			l.faults = append(l.faults, Fault{File: "environment", Msg: err.Error()})
		}
	}
	tree := k.Raw()
	if _, set := tree["proxies"]; !set && proxies != nil {
		tree["proxies"] = proxies
	}
	return normalize(tree).(map[string]any)
}

// closeKeys gives each key as a variable names it, section__key, by what it is
// with one underscore between the two.
func closeKeys() map[string]string {
	out := map[string]string{}
	add := func(section string, of reflect.Type, tag string) {
		for i := range of.NumField() {
			if key := of.Field(i).Tag.Get(tag); key != "" && key != "-" {
				out[section+"_"+key] = section + "__" + key
			}
		}
	}
	for i, all := 0, reflect.TypeFor[Config](); i < all.NumField(); i++ {
		if f := all.Field(i); f.Type.Kind() == reflect.Struct && f.Tag.Get("koanf") != "-" {
			add(f.Tag.Get("koanf"), f.Type, "koanf")
		}
	}
	add("retry", reflect.TypeFor[retry.Policy](), "json")
	add("plugins", reflect.TypeFor[PluginHost](), "koanf")
	return out
}

// syntax reports what the TOML parser says, with its place.
func (l *loader) syntax(err error) {
	f := Fault{File: l.src.File, Msg: "TOML: " + err.Error()}
	var d *toml.DecodeError
	if errors.As(err, &d) {
		f.Line, _ = d.Position()
		f.Key = shown(strings.Join(d.Key(), "."))
		for _, part := range d.Key() {
			f.Msg = strings.ReplaceAll(f.Msg, part, shown(part))
		}
	}
	l.faults = append(l.faults, f)
}

// envValue reads a variable as a TOML value; what is none is text.
func envValue(s string) any {
	var v struct{ V any }
	if err := toml.Unmarshal([]byte("V = "+s), &v); err == nil && !strings.ContainsAny(s, "\n\r") {
		return v.V
	}
	return s
}

// normalize brings a tree to the types of go-toml: lists as []any.
func normalize(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, x := range v {
			out[key] = normalize(x)
		}
		return out
	case []map[string]any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = normalize(x)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = normalize(x)
		}
		return out
	case []string:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = x
		}
		return out
	case int:
		return int64(v)
	}
	return v
}

func (l *loader) fault(key string, value any, msg string) {
	l.faults = append(l.faults, l.place(key, value, msg))
}

// place words a fault: where its key was set, and with the value unless that
// may be a secret.
func (l *loader) place(key string, value any, msg string) Fault {
	f := Fault{File: l.src.File, Line: lineOf(l.lines, key), Key: shown(key), Msg: msg}
	if _, flag := l.src.Overrides[key]; flag || strings.HasPrefix(key, "--") {
		f.File, f.Line = "command line", 0
	}
	for set, name := range l.fromEnv {
		if set == key || strings.HasPrefix(key, set+"[") || f.Line == 0 && strings.HasPrefix(set, key+".") {
			f.File, f.Line = "environment variable "+name, 0
		}
	}
	if value != nil && !secret(key) {
		switch value.(type) {
		case map[string]any, []any:
		default:
			if text, err := json.Marshal(value); err == nil && len(text) < 200 {
				f.Value = string(text)
			}
		}
	}
	return f
}

// shown is a key as faults name it. None of ours has to be quoted; one that had
// may be a credential that stands on the wrong side of its "=".
func shown(key string) string {
	odd := strings.IndexFunc(key, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-.[]", r))
	})
	if odd < 0 {
		return key
	}
	return key[:strings.LastIndexByte(key[:odd], '.')+1] + "***"
}

// secret reports whether the value of a key may be a credential or contain one,
// perhaps by mistake (a URL where the path of a list belongs).
func secret(key string) bool {
	for _, section := range []string{"proxies", "gateway.users", "api.keys", "pool"} {
		if strings.HasPrefix(key, section) {
			return !strings.HasSuffix(key, ".role")
		}
	}
	return strings.HasPrefix(key, "plugins.") && strings.Contains(key, ".config")
}

// Fault words a fault that shows only when the configuration is put to use.
func (c *Config) Fault(key string, value any, msg string) Fault { return c.place(key, value, msg) }

// policy reads [retry] key by key, so that every fault is seen.
func (l *loader) policy() {
	p := retry.DefaultPolicy()
	for _, key := range slices.Sorted(maps.Keys(l.cfg.Retry)) {
		value := l.cfg.Retry[key]
		if value == "null" && (key == "timeout" || key == "failover_delay") {
			value = nil // TOML has no null
		}
		object, err := json.Marshal(map[string]any{key: value})
		if err != nil {
			l.fault("retry."+key, nil, "must be a finite number")
			continue
		}
		o, err := retry.DecodeOverride(object)
		if err == nil {
			p = p.Merge(o)
			one := retry.DefaultPolicy()
			one = one.Merge(o)
			err = one.Validate(func(string) bool { return true }) // the engine knows the strategies
		}
		var wrong *strictjson.FieldError
		switch {
		case errors.As(err, &wrong):
			if strings.HasPrefix(wrong.Msg, "unknown") {
				value = nil
			}
			l.fault("retry."+key, value, wrong.Msg)
		case err != nil:
			_, msg, _ := strings.Cut(err.Error(), " ")
			l.fault("retry."+key, value, msg)
		}
	}
	if len(l.faults) == 0 {
		if err := p.Validate(func(string) bool { return true }); err != nil {
			l.fault("retry", nil, err.Error())
		}
	}
	l.cfg.Policy = p
}

// plugins reads [plugins]: settings of the host, and one table per plugin.
func (l *loader) plugins() {
	host := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(l.cfg.Plugins)) {
		table, ok := l.cfg.Plugins[name].(map[string]any)
		if !ok {
			host[name] = l.cfg.Plugins[name]
			continue
		}
		var p Plugin
		key := "plugins." + name
		decode(key, table, reflect.ValueOf(&p).Elem(), l.fault)
		if p.Path == "" {
			l.fault(key+".path", nil, "is missing: the .wasm file of the plugin")
		} else {
			p.Path = l.relative(p.Path)
		}
		if p.Kind != "" && p.Kind != "scorer" && p.Kind != "backoff" {
			l.fault(key+".kind", p.Kind, "must be scorer or backoff")
		}
		l.cfg.PluginHost.Modules[name] = p
	}
	decode("plugins", host, reflect.ValueOf(&l.cfg.PluginHost).Elem(), l.fault)
}

// relative resolves a path of the configuration file beside that file.
func (l *loader) relative(path string) string {
	if filepath.IsAbs(path) || l.src.File == "" {
		return path
	}
	return filepath.Join(filepath.Dir(l.src.File), path)
}

// check looks at what types do not say.
func (l *loader) check() {
	c := &l.cfg
	within := func(key string, value, low, high float64) {
		if !(value >= low && value <= high) {
			l.fault(key, value, "must be "+decimal(low)+" to "+decimal(high))
		}
	}
	duration := func(key string, d Duration, low, high string) {
		min, _ := parseDuration(low)
		max, _ := parseDuration(high)
		if d < min || d > max {
			l.fault(key, d.String(), fmt.Sprintf("must be %s to %s", low, high))
		}
	}
	for _, a := range []struct{ key, listen string }{{"gateway.listen", c.Gateway.Listen}, {"api.listen", c.API.Listen}} {
		if err := checkListen(a.listen); err != nil {
			l.fault(a.key, a.listen, err.Error())
		}
	}
	within("gateway.replay_limit", float64(c.Gateway.ReplayLimit), 0, 1<<30)
	within("gateway.max_connections", float64(c.Gateway.MaxConnections), 0, 1<<24)
	duration("gateway.drain_grace", c.Gateway.DrainGrace, "0s", "1h")
	duration("timeouts.connect", c.Timeouts.Connect, "10ms", "10m")
	duration("timeouts.attempt", c.Timeouts.Attempt, "10ms", "1h")
	duration("timeouts.body_idle", c.Timeouts.BodyIdle, "100ms", "24h")
	within("retry_budget.ratio", c.RetryBudget.Ratio, 0, 1000)
	within("retry_budget.min_per_second", c.RetryBudget.MinPerSecond, 0, 1e9)
	within("selection.max_candidates", float64(c.Selection.MaxCandidates), 1, 1<<16)
	within("metrics.retention_hours", float64(c.Metrics.RetentionHours), 1, metrics.MaxRetentionHours)
	within("plugins.max_faults", float64(c.PluginHost.MaxFaults), 1, 1e6)
	l.breaker("breaker", c.Breaker)
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		l.fault("log.level", c.Log.Level, "must be debug, info, warn or error")
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		l.fault("log.format", c.Log.Format, "must be text or json")
	}
	l.people()
}

// decimal writes a limit out, without an exponent.
func decimal(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// breaker checks a breaker's settings and reports whether they are good.
func (l *loader) breaker(key string, b Breaker) bool {
	before := len(l.faults)
	if b.FailureThreshold < 1 {
		l.fault(key+".failure_threshold", b.FailureThreshold, "must be at least 1")
	}
	if b.WindowDuration <= 0 {
		l.fault(key+".window_duration", b.WindowDuration, "must be above 0")
	}
	if b.TimeoutDuration <= 0 {
		l.fault(key+".timeout_duration", b.TimeoutDuration, "must be above 0")
	}
	return len(l.faults) == before
}

// people checks users and keys.
func (l *loader) people() {
	c := &l.cfg
	if len(c.Gateway.Users) == 0 && checkListen(c.Gateway.Listen) == nil && !Loopback(c.Gateway.Listen) {
		c.Warnings = append(c.Warnings, "everybody who reaches "+c.Gateway.Listen+" may use the gateway: there are no [[gateway.users]]")
	}
	seen := map[string]bool{}
	for i, u := range c.Gateway.Users {
		key := fmt.Sprintf("gateway.users[%d]", i)
		switch {
		case u.Name == "" || strings.ContainsRune(u.Name, ':'):
			l.fault(key+".name", nil, "must be a name without ':'")
		case u.Password == "":
			l.fault(key+".password", nil, "is missing")
		case seen[u.Name]:
			l.fault(key+".name", nil, "is there twice")
		}
		seen[u.Name] = true
	}
	for i, k := range c.API.Keys {
		key := fmt.Sprintf("api.keys[%d]", i)
		if len(k.Key) < 8 {
			l.fault(key+".key", nil, "must have at least 8 characters, such as `openssl rand -hex 24` gives")
		}
		if k.Role != "read" && k.Role != "admin" {
			l.fault(key+".role", k.Role, "must be read or admin")
		}
	}
	if len(c.API.Keys) == 0 && checkListen(c.API.Listen) == nil && !Loopback(c.API.Listen) {
		l.fault("api.listen", c.API.Listen, "without keys the API listens on loopback only; add [[api.keys]] with name, key and role = \"admin\", or listen on 127.0.0.1")
	}
}

// proxies turns [[proxies]] and the files into specs.
func (l *loader) proxies() {
	c := &l.cfg
	for i, p := range c.Proxies {
		key := fmt.Sprintf("proxies[%d]", i)
		a, err := upstream.ParseAddress(string(p.URL))
		if p.URL == "" {
			err = errors.New("is missing")
		}
		if err != nil {
			l.fault(key+".url", nil, err.Error())
			continue
		}
		if p.Weight == nil {
			one := 1.0
			p.Weight, c.Proxies[i].Weight = &one, &one
		}
		if *p.Weight == 0 { // to a Spec that is one without a weight
			l.fault(key+".weight", nil, "is 0; it must be above 0: without the proxy's entry nothing goes through it")
		}
		spec := upstream.Spec{ID: p.ID, Address: a, Region: p.Region, Weight: *p.Weight, Cost: p.Cost, MaxInFlight: p.MaxInFlight, Metadata: p.Metadata, Source: "config"}
		if p.Breaker != nil {
			own := p.Breaker.over(c.Breaker)
			if !l.breaker(key+".breaker", own) {
				continue
			}
			b := own.config()
			spec.Breaker = &b
		}
		var bad *upstream.SpecError
		if err := upstream.CheckSpec(&spec); errors.As(err, &bad) {
			l.fault(key+"."+bad.Field, nil, bad.Msg)
		}
		c.specs = append(c.specs, spec)
	}
	for i, u := range l.src.URLs {
		spec, err := proxylist.ParseLine(u)
		if err != nil {
			l.faults = append(l.faults, Fault{File: "--proxy", Key: fmt.Sprintf("number %d", i+1), Msg: err.Error()})
			continue
		}
		spec.Source = "config"
		c.specs = append(c.specs, spec)
	}
	for i, path := range c.Pool.Files {
		key := fmt.Sprintf("pool.files[%d]", i)
		switch {
		case path == "":
			l.fault(key, nil, "must be the path of a file")
		case looksLikeProxy(path):
			l.fault(key, nil, "must be the path of a file; a proxy's URL goes into [[proxies]]")
		default:
			l.list(l.relative(path), key)
		}
	}
	for _, path := range l.src.Proxies {
		if looksLikeProxy(path) {
			l.fault("--proxies", nil, "takes the path of a file; a proxy is given by --proxy")
			continue
		}
		l.list(path, "--proxies")
	}
	l.ids()
}

// looksLikeProxy reports whether what should be the path of a list is really a
// proxy: it may hold a password, which no fault may quote.
func looksLikeProxy(path string) bool {
	if _, err := os.Stat(path); err == nil {
		return false
	}
	_, err := proxylist.ParseLine(path)
	return err == nil || strings.Contains(path, "://") || strings.Contains(path, "@")
}

// maxWarnings is how many lines of a list are named one by one.
const maxWarnings = 1000

// readFile reads a whole file. With the second reading of a pipe somebody would
// have to write it again; until then nothing could be reloaded.
func (l *loader) readFile(path string) ([]byte, error) {
	if info, err := os.Stat(path); err == nil && info.Mode()&fs.ModeNamedPipe != 0 && !l.src.Once {
		return nil, fmt.Errorf("%s is a pipe, and it is read again at each reload; write it to a file", path)
	}
	return os.ReadFile(path)
}

// Stdin among Source.Proxies is the list that came from standard input.
const Stdin = "-"

// list reads one file of proxies.
func (l *loader) list(path, key string) {
	data, err := l.src.Stdin, error(nil)
	if path != Stdin {
		l.cfg.files = append(l.cfg.files, path)
		data, err = l.readFile(path)
	}
	if err != nil {
		l.fault(key, path, err.Error())
		return
	}
	taken := map[string]bool{}
	for _, s := range l.cfg.specs {
		taken[s.ID] = true
	}
	specs, warnings, err := proxylist.Parse(bytes.NewReader(data), path, taken)
	if err != nil {
		l.fault(key, path, err.Error())
		return
	}
	for i, w := range warnings {
		if i == maxWarnings { // of a file that is no list at all, say
			l.cfg.Warnings = append(l.cfg.Warnings, fmt.Sprintf("%s: %d more lines are skipped or in doubt", path, len(warnings)-i))
			break
		}
		l.cfg.Warnings = append(l.cfg.Warnings, fmt.Sprintf("%s:%d: %s", path, w.Line, w.Msg))
	}
	l.cfg.specs = append(l.cfg.specs, specs...)
}

// ids looks for ids that are used twice in [[proxies]].
func (l *loader) ids() {
	seen := map[string]int{}
	for i, p := range l.cfg.Proxies {
		if first, twice := seen[p.ID]; twice && p.ID != "" {
			l.fault(fmt.Sprintf("proxies[%d].id", i), nil, fmt.Sprintf("%q is the id of proxies[%d] already", p.ID, first))
		}
		seen[p.ID] = i
	}
}

func checkListen(listen string) error {
	_, port, err := net.SplitHostPort(listen)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n > 65535 {
		return errors.New("must be host:port to listen at")
	}
	return nil
}
