package plugins

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// savedExt is the ending of the files of uploads: a line with the settings in JSON, then the module. It is one file,
// so that a module never gets the settings of another, whatever happens while the file is replaced.
const savedExt = ".upload"

func (r *Registry) file(name string) string {
	return filepath.Join(r.opts.StateDir, "plugins", name+savedExt)
}

// save writes the file of an upload. It requires mu.
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

// halfExt is the ending of a file that is being written.
const halfExt = ".new"

// writeFile replaces a file whole or not at all. A half file would leave less room on a full disk, so it is removed.
func writeFile(path string, data []byte) error {
	half := path + halfExt
	err := writeAll(half, data)
	if err == nil {
		err = os.Rename(half, path)
	}
	if err != nil {
		os.Remove(half)
	}
	return err
}

// writeAll writes a file and flushes it to the disk.
func writeAll(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return cmp.Or(err, f.Sync(), f.Close())
}

// unsave removes the file of an upload. It requires mu.
func (r *Registry) unsave(name string) error {
	if r.opts.StateDir == "" {
		return nil
	}
	if err := os.Remove(r.file(name)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// restore loads the uploads of earlier runs. Files that cannot be read, or whose name is none for a plugin, are logged
// and stay: they must not stop the gateway. Half-written files are removed.
func (r *Registry) restore() {
	if r.opts.StateDir == "" {
		return
	}
	dir := filepath.Dir(r.file(""))
	files, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		r.opts.Log.Error("uploaded plugins could not be restored", "error", err)
	}
	for _, f := range files {
		name, isUpload := strings.CutSuffix(f.Name(), savedExt)
		switch path := filepath.Join(dir, f.Name()); {
		case strings.HasSuffix(f.Name(), savedExt+halfExt): // the process died while it wrote it
			os.Remove(path)
		case filepath.Ext(f.Name()) == ".wasm":
			r.opts.Log.Warn("an upload that an earlier build has kept is not read: upload it again, and delete the "+
				"file",
				"file", path)
		case isUpload:
			if err := CheckName(name); err != nil {
				r.opts.Log.Error("an uploaded plugin could not be restored", "plugin", name, "error", err)
				continue
			}
			r.install(name, r.saved(name, true))
		}
	}
}

// saved loads the module that save has written. One that does not load any more gives a version that never serves:
// the built-in answers for it.
func (r *Registry) saved(name string, begin bool) *version {
	code, spec, err := r.read(name)
	if err == nil {
		var v *version
		if v, err = r.load(name, code, SourceAPI, spec, begin); err == nil {
			return v
		}
	}
	err = lost(name, err)
	r.opts.Log.Error(lostMsg, "plugin", name, "error", err)
	v := &version{origin: origin{source: SourceAPI, spec: spec}, module: new(wasmhost.Module), loaded: r.now(),
		output: r.outputOf(name)}
	v.failed.Store(&err)
	return v
}

const lostMsg = "an uploaded plugin does not load any more"

// lost adds to an error how to get rid of an upload that does not load any more.
func lost(name string, err error) error {
	return fmt.Errorf("%w; the built-in answers for it: PUT /api/v1/plugins/%s replaces it, DELETE removes it", err,
		name)
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
