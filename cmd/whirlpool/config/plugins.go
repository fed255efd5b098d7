package config

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/source"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// PluginHost is the [plugins] section.
type PluginHost struct {
	MaxFaults   int               `koanf:"max_faults" json:"max_faults" range:"1,1000000"`
	CallTimeout Duration          `koanf:"call_timeout" json:"call_timeout" range:"1ms,10s"` // CPU time
	CacheDir    string            `koanf:"cache_dir" json:"cache_dir"`
	Modules     map[string]Plugin `koanf:"-" json:"modules"`
}

// Plugin is one table [plugins.NAME].
type Plugin struct {
	Path      string         `koanf:"path" json:"path,omitempty"`
	Builtin   string         `koanf:"builtin" json:"builtin,omitempty"` // built-in, in place of Path or URL
	URL       ModuleURL      `koanf:"url" json:"url,omitempty"`
	SHA256    string         `koanf:"sha256" json:"sha256,omitempty"`
	PublicKey string         `koanf:"public_key" json:"public_key,omitempty"`
	Insecure  bool           `koanf:"insecure" json:"insecure,omitempty"`
	Kind      string         `koanf:"kind" json:"kind,omitempty"`
	Observe   bool           `koanf:"observe" json:"observe,omitempty"` // gets observations even if it is not in use
	Fuel      int64          `koanf:"fuel" json:"fuel,omitempty" range:"10000,10000000000"`
	Memory    Size           `koanf:"memory" json:"memory,omitempty" range:"64KiB,1GiB"`
	Timeout   Duration       `koanf:"timeout" json:"timeout,omitzero" range:"1ms,10s"` // CPU time
	Config    map[string]any `koanf:"config" json:"-"`
}

// ModuleURL is the URL of a plugin's module. Its JSON form masks the query, which may contain a secret.
type ModuleURL string

// MarshalJSON masks the query.
func (u ModuleURL) MarshalJSON() ([]byte, error) {
	place, query := source.Source{URL: string(u)}.URLWithoutQuery(), ""
	if place != string(u) {
		query = "?***"
	}
	return json.Marshal(place + query)
}

// The method source returns the source of the plugin's module. If the plugin has no URL, the result is the zero value.
func (p *Plugin) source() source.Source {
	return source.Source{URL: string(p.URL), SHA256: p.SHA256, PublicKey: p.PublicKey, Insecure: p.Insecure}
}

// Modules returns the plugins that the gateway must load, by name.
func (c *Config) Modules() map[string]plugins.Spec {
	out := make(map[string]plugins.Spec, len(c.PluginHost.Modules))
	for name, p := range c.PluginHost.Modules {
		spec := plugins.Spec{Kind: wasmhost.Kind(p.Kind), Observe: p.Observe, Config: p.Config,
			Limits: plugins.Limits{Fuel: p.Fuel, MemoryBytes: int64(p.Memory), CallTimeout: time.Duration(p.Timeout)}}
		if p.URL != "" {
			spec.Source = p.source()
		} else {
			spec.Path, spec.Builtin, spec.SHA256 = p.Path, p.Builtin, p.SHA256
		}
		out[name] = spec
	}
	return out
}

// readPlugins reads [plugins]: the settings for all plugins, and a table for each plugin.
func (l *loader) readPlugins() {
	host := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(l.cfg.Plugins)) {
		table, ok := l.cfg.Plugins[name].(map[string]any)
		if !ok {
			host[name] = l.cfg.Plugins[name]
			continue
		}
		var p Plugin
		key := "plugins." + name
		l.decode(key, strict.TOML, table, &p)
		l.checkModule(key, &p)
		if p.Kind != "" && !slices.Contains(wasmhost.Kinds(), wasmhost.Kind(p.Kind)) {
			l.addFault(key+".kind", p.Kind, "must be scorer, backoff or judge")
		}
		l.cfg.PluginHost.Modules[name] = p
	}
	l.decode("plugins", strict.TOML, host, &l.cfg.PluginHost)
}

// checkModule checks the keys of a plugin that determine where its module comes from. The parameter key is the key of
// the plugin's table.
func (l *loader) checkModule(key string, p *Plugin) {
	switch {
	case p.Path != "" && p.Builtin != "":
		l.addFault(key+".builtin", p.Builtin, "cannot be set together with path; give one of them")
	case p.URL != "" && p.Path+p.Builtin != "":
		l.addFault(key+".url", nil, "cannot be set together with path or builtin; give one of them")
	case p.URL == "" && p.Path+p.Builtin == "":
		l.addFault(key+".path", nil, "is missing: the .wasm file of the plugin; or give url")
	case p.URL == "":
		if p.Path != "" {
			p.Path = l.resolvePath(p.Path)
		}
		if p.PublicKey != "" || p.Insecure {
			l.addFault(key, nil, "public_key and insecure are for a url; a file is verified by sha256")
		}
	default:
		var wrong *source.FieldError
		if errors.As(p.source().Check(), &wrong) {
			l.addFault(key+"."+wrong.Field, nil, wrong.Err.Error()) // without the value, which may hold a secret
		}
	}
}
