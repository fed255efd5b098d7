package plugins

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/state"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// savedExt is the extension of an upload's file: one line of JSON with the settings, followed by
// the module. One file holds both, so that a module is never read with the settings of another
// module.
const savedExt = ".upload"

func (r *Registry) file(name string) string {
	return filepath.Join(r.opts.StateDir, "plugins", name+savedExt)
}

// save writes the file of an upload. The caller holds mu.
func (r *Registry) save(name string, v *version) error {
	if r.opts.StateDir == "" {
		return nil
	}
	if r.frozen {
		return state.ErrClosed
	}
	if err := state.MakeDir(filepath.Dir(r.file(name))); err != nil {
		return err
	}
	settings, err := json.Marshal(v.spec.Config)
	if err != nil {
		return err
	}
	return state.WriteFile(state.OS{}, r.file(name), slices.Concat(settings, []byte("\n"), v.code))
}

// unsave removes the file of an upload. The caller holds mu.
func (r *Registry) unsave(name string) error {
	if r.opts.StateDir == "" {
		return nil
	}
	if r.frozen {
		return state.ErrClosed
	}
	err := os.Remove(r.file(name))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return state.OS{}.SyncDir(filepath.Dir(r.file(name)))
}

// restore loads the uploads of earlier runs. A file that cannot be read, or whose name is not a plugin's
// name, is logged and not removed. Such a file must not prevent the gateway from starting. Incomplete
// files are removed.
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
		case strings.HasSuffix(f.Name(), savedExt+state.NewExt),
			strings.HasSuffix(f.Name(), fetchedExt+state.NewExt): // the process ended during the write
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

// saved loads a module from the file that the method save has written. If the module cannot be loaded any
// more, it returns a version that fails every call, so that the built-in is called instead.
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

// The parameter err is the reason why an upload cannot be loaded any more. The result adds to err the requests to the
// API that replace or remove the upload.
func lost(name string, err error) error {
	return fmt.Errorf("%w; the built-in is called in its place: PUT /api/v1/plugins/%s replaces it, DELETE removes it",
		err, name)
}

func (r *Registry) read(name string) (code []byte, spec Spec, err error) {
	data, err := readModule(r.file(name))
	if err != nil {
		return nil, spec, err
	}
	settings, code, _ := bytes.Cut(data, []byte("\n"))
	d := json.NewDecoder(bytes.NewReader(settings))
	d.UseNumber() // numbers keep their text
	if err := d.Decode(&spec.Config); err != nil {
		return nil, spec, fmt.Errorf("%s: its first line: %w", r.file(name), err)
	}
	return code, spec, nil
}
