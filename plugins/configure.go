package plugins

import (
	"fmt"
	"maps"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// Configure begins to load an uploaded plugin again with changed settings. The value nil in changes removes a setting.
// Settings that are not in changes keep their values. Configure returns the same errors as a Submit of the same module.
// RollBack restores the previous settings.
func (r *Registry) Configure(name string, changes map[string]any, persist bool) (*Upload, error) {
	p := r.get(name)
	if p == nil {
		return nil, r.notFound(name)
	}
	v := p.current.Load()
	if v.source != SourceAPI {
		return nil, conflictf("plugin %q was not uploaded: its settings are those of the configuration", name)
	}
	if len(v.code) == 0 {
		return nil, conflictf("plugin %q has no module to load again; upload it", name)
	}
	return r.submit(name, v.code, true, persist, func() (code []byte, config map[string]any) {
		v := v
		if p := r.get(name); p != nil {
			v = p.current.Load()
		}
		return v.code, mergeSettings(v.spec.Config, changes)
	})
}

func mergeSettings(config, changes map[string]any) map[string]any {
	config = maps.Clone(config)
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
	return config
}

// SettingValue is a setting that a module declares, with its value.
type SettingValue struct {
	wasmhost.Setting
	Value string // the configured value; "" for the default, and for a free text, which may be secret
}

// settings returns the settings that the module of v declares, with their values.
func (v *version) settings() []SettingValue {
	var out []SettingValue
	for _, s := range v.module.Settings() {
		value := SettingValue{Setting: s}
		if configured := v.spec.Config[s.Name]; configured != nil && !s.IsFreeText() {
			value.Value = fmt.Sprint(configured)
		}
		out = append(out, value)
	}
	return out
}
