package plugins

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// savedExt is the ending of the files that uploads are kept in: a line with the
// settings in JSON, then the module. It is one file, so that whatever happens
// while it is replaced, a module never meets the settings of another.
const savedExt = ".upload"

func (r *Registry) file(name string) string {
	return filepath.Join(r.opts.StateDir, "plugins", name+savedExt)
}

func (r *Registry) save(name string, v *version) error {
	if r.opts.StateDir == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(r.file(name)), 0o700); err != nil {
		return err
	}
	settings, err := json.Marshal(v.spec.Config)
	if err != nil {
		return err
	}
	return writeFile(r.file(name), slices.Concat(settings, []byte("\n"), v.code))
}

// writeFile replaces a file whole or not at all.
func writeFile(path string, data []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func (r *Registry) unsave(name string) error {
	if r.opts.StateDir == "" {
		return nil
	}
	if err := os.Remove(r.file(name)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// restore loads what was uploaded before the restart. A file whose name is none
// for a plugin is logged and left where it is.
func (r *Registry) restore() error {
	if r.opts.StateDir == "" {
		return nil
	}
	files, err := filepath.Glob(r.file("*"))
	if err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(filepath.Dir(r.file("")), "*.wasm"))
	if err != nil {
		return err
	}
	for _, path := range old {
		r.opts.Log.Warn("an upload that an earlier build has kept is not read: upload it again, and delete the file", "file", path)
	}
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), savedExt)
		if err := CheckName(name); err != nil {
			r.opts.Log.Error("an uploaded plugin could not be restored", "plugin", name, "error", err)
			continue
		}
		r.install(name, r.saved(name, true))
	}
	return nil
}

// saved loads what save has kept of an upload. One that does not load any more
// is a version that never serves: who uses its name is served by the built-in.
func (r *Registry) saved(name string, begin bool) *version {
	code, spec, err := r.read(name)
	if err == nil {
		var v *version
		if v, err = r.load(name, code, SourceAPI, spec, begin); err == nil {
			return v
		}
	}
	err = fmt.Errorf("%w; the built-in answers for it: PUT /api/v1/plugins/%s replaces it, DELETE removes it", err, name)
	r.opts.Log.Error("an uploaded plugin does not load any more", "plugin", name, "error", err)
	v := &version{origin: origin{source: SourceAPI, spec: spec}, module: new(wasmhost.Module), loaded: r.now()}
	v.failed.Store(&err)
	return v
}

func (r *Registry) read(name string) (code []byte, spec Spec, err error) {
	data, err := readModule(r.file(name))
	if err != nil {
		return nil, spec, err
	}
	settings, code, _ := bytes.Cut(data, []byte("\n"))
	d := json.NewDecoder(bytes.NewReader(settings))
	d.UseNumber() // as it was uploaded
	if err := d.Decode(&spec.Config); err != nil {
		return nil, spec, fmt.Errorf("%s: its first line: %w", r.file(name), err)
	}
	return code, spec, nil
}
