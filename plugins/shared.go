package plugins

import (
	"bytes"
	"encoding/json"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// Gateways of a cluster share their uploads. Options.Uploaded reports the uploads of this gateway. The methods Take,
// Discard and Holds are for the uploads of other gateways. Those gateways have checked the modules.

// uploaded reports an upload or, if code is nil, the deletion of an upload. The caller does not hold mu.
func (r *Registry) uploaded(name string, code []byte, spec *Spec) {
	if r.opts.Uploaded != nil {
		r.opts.Uploaded(name, code, spec.Config, !spec.Temporary)
	}
}

// Take puts a module under a name, as an upload does, but does not check the module with Options.Check. The module may
// replace any upload. A plugin in use is not replaced by a plugin of another kind. The parameter inUse is described at
// Delete, and the parameter keep at Submit. If the module is the cause of an error, the error is a
// *wasmhost.CheckError. If the module must not have the name, the error wraps core.ErrConflict. After an error, the
// plugin with this name is unchanged.
func (r *Registry) Take(
	name string, code []byte, config map[string]any, keep bool, inUse func(name string) string,
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
		return unlessUsed(name, inUse)
	}
	if err := allowed(); err != nil {
		return err
	}
	var v *version
	err = r.compiler.run(r.ctx, code, func() (err error) {
		v, err = r.load(name, code, SourceAPI, Spec{Config: config, Temporary: !keep}, false)
		return err
	})
	if err != nil {
		return err
	}
	_, err = r.installUpload(name, v, allowed)
	return err
}

// Discard does the same as Delete, but does not report the deletion (Options.Uploaded).
func (r *Registry) Discard(name string, inUse func(name string) string) error {
	return r.remove(name, inUse)
}

// Holds reports whether an upload with the given name is in the registry and can be used, and has the given module and
// settings and the same value of keep. The parameter sum is the SHA-256 of the module, in hexadecimal.
func (r *Registry) Holds(name, sum string, config map[string]any, keep bool) bool {
	p := r.get(name)
	if p == nil {
		return false
	}
	v := p.current.Load()
	if v.source != SourceAPI || v.loadError.Load() != nil || v.sum != sum || v.spec.Temporary == keep {
		return false
	}
	is, err := json.Marshal(v.spec.Config)
	shall, wrong := json.Marshal(config)
	if len(v.spec.Config)+len(config) == 0 {
		return true // nil and an empty map are the same settings
	}
	return err == nil && wrong == nil && bytes.Equal(is, shall)
}

// Code returns the module of an upload. The error wraps core.ErrNotFound if there is no upload with this name and
// SHA-256.
func (r *Registry) Code(name, sum string) ([]byte, error) {
	p := r.get(name)
	if p == nil {
		return nil, r.notFound(name)
	}
	if v := p.current.Load(); v.source == SourceAPI && v.sum == sum && len(v.code) > 0 {
		return v.code, nil
	}
	return nil, r.notFound(name)
}
