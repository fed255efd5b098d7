package plugins

import (
	"fmt"
	"maps"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// Configure begins to load an uploaded plugin again, with other settings: those of changes are set, and removed where
// the value is nil; the others stay. It is a Submit of the same module: the errors are the same, and RollBack returns
// to the settings before.
func (r *Registry) Configure(name string, changes map[string]any) (*Upload, error) {
	p := r.get(name)
	if p == nil {
		return nil, notFound(name)
	}
	v := p.current.Load()
	if v.source != SourceAPI {
		return nil, conflictf("plugin %q was not uploaded: its settings are those of the configuration", name)
	}
	if len(v.code) == 0 {
		return nil, conflictf("plugin %q has no module to load again; upload it", name)
	}
	config := maps.Clone(v.spec.Config)
	if config == nil {
		config = map[string]any{}
	}
	for key, value := range changes {
		if value == nil {
			delete(config, key)
		} else {
			config[key] = value
		}
	}
	return r.Submit(name, v.code, config, true)
}

// SettingValue is a setting that a module states, with its value.
type SettingValue struct {
	wasmhost.Setting
	Value string // as configured; "" for the default, and for a text of any content, which may be secret
}

// settings returns the settings that the module of v states, with their values.
func (v *version) settings() []SettingValue {
	var out []SettingValue
	for _, s := range v.module.Settings() {
		value := SettingValue{Setting: s}
		if configured := v.spec.Config[s.Name]; configured != nil && !s.Free() {
			value.Value = fmt.Sprint(configured)
		}
		out = append(out, value)
	}
	return out
}
