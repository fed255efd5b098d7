package plugins

import (
	"bytes"
	"encoding/json"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// Gateways of a cluster share their uploads. Options.OnUpload reports the uploads of this gateway. The methods
// InstallShared, DeleteShared and HasUpload are for the uploads of other gateways. Those gateways have checked the
// modules.

// reportUpload reports an upload or, if code is nil, the deletion of an upload. The caller does not hold mu.
func (r *Registry) reportUpload(name string, code []byte, spec *Spec) {
	if r.opts.OnUpload != nil {
		r.opts.OnUpload(name, code, spec.Config, !spec.Temporary)
	}
}

// InstallShared installs the module of an upload at another gateway. It works like an upload, but does not call
// Options.Check. It may replace any upload, with one exception: a plugin in use is not replaced by a plugin of another
// kind. The function useOf is as in Delete. If the module is the cause of an error, the error is a
// *wasmhost.CheckError. If this name is not permitted for the module, the error wraps core.ErrConflict. After an
// error, the plugin with this name is unchanged.
func (r *Registry) InstallShared(
	name string, code []byte, config map[string]any, persist bool, useOf func(name string) string,
) error {
	if err := CheckName(name); err != nil {
		return &wasmhost.CheckError{Msg: err.Error()}
	}
	d, err := r.host.Describe(code)
	if err != nil {
		return err
	}
	allowed := func() error {
		p := r.get(name)
		if err := r.checkUploadAllowed(name, "", p != nil); err != nil || p == nil || p.kind() == "" ||
			p.kind() == d.Kind {
			return err
		}
		return checkUnused(name, useOf)
	}
	if err := allowed(); err != nil {
		return err
	}
	var v *version
	err = r.compiler.run(r.ctx, code, func() (err error) {
		v, err = r.loadVersion(name, code, SourceAPI, Spec{Config: config, Temporary: !persist}, false)
		return err
	})
	if err != nil {
		return err
	}
	_, err = r.installUpload(name, v, allowed)
	return err
}

// DeleteShared does the same as Delete, but does not report the deletion (Options.OnUpload).
func (r *Registry) DeleteShared(name string, useOf func(name string) string) error {
	return r.removePlugin(name, useOf)
}

// HasUpload reports whether a usable upload in the registry has the given name, module and settings, and the same value
// of persist. The parameter sum is the SHA-256 of the module, in hexadecimal.
func (r *Registry) HasUpload(name, sum string, config map[string]any, persist bool) bool {
	p := r.get(name)
	if p == nil {
		return false
	}
	v := p.current.Load()
	if v.source != SourceAPI || v.loadError.Load() != nil || v.sum != sum || v.spec.Temporary == persist {
		return false
	}
	ownConfig, err := json.Marshal(v.spec.Config)
	givenConfig, givenErr := json.Marshal(config)
	if len(v.spec.Config)+len(config) == 0 {
		return true // nil and an empty map are the same settings
	}
	return err == nil && givenErr == nil && bytes.Equal(ownConfig, givenConfig)
}

// UploadCode returns the module of an upload. The error wraps core.ErrNotFound if there is no upload with this name and
// SHA-256.
func (r *Registry) UploadCode(name, sum string) ([]byte, error) {
	p := r.get(name)
	if p == nil {
		return nil, r.notFound(name)
	}
	if v := p.current.Load(); v.source == SourceAPI && v.sum == sum && len(v.code) > 0 {
		return v.code, nil
	}
	return nil, r.notFound(name)
}
