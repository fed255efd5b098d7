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

// uploadExt is the extension of an upload's file. The first line of the file has the settings in JSON; the module
// follows. One file holds both, so that a module is never read with the settings of another one.
const uploadExt = ".upload"

func (r *Registry) uploadFile(name string) string {
	return filepath.Join(r.opts.StateDir, "plugins", name+uploadExt)
}

// The caller of saveUpload holds mu.
func (r *Registry) saveUpload(name string, v *version) error {
	if r.opts.StateDir == "" {
		return nil
	}
	if r.uploadsFrozen {
		return state.ErrClosed
	}
	if err := state.MakeDir(filepath.Dir(r.uploadFile(name))); err != nil {
		return err
	}
	settings, err := json.Marshal(v.spec.Config)
	if err != nil {
		return err
	}
	return state.WriteFile(state.OS{}, r.uploadFile(name), slices.Concat(settings, []byte("\n"), v.code))
}

// removeUpload removes an upload's file. The caller holds mu.
func (r *Registry) removeUpload(name string) error {
	if r.opts.StateDir == "" {
		return nil
	}
	if r.uploadsFrozen {
		return state.ErrClosed
	}
	err := os.Remove(r.uploadFile(name))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return state.OS{}.SyncDir(filepath.Dir(r.uploadFile(name)))
}

// restoreUploads loads the uploads of earlier runs, and removes files that were not written completely. Other files
// that cannot be read are logged and not removed. They must not prevent the gateway from starting.
func (r *Registry) restoreUploads() {
	if r.opts.StateDir == "" {
		return
	}
	dir := filepath.Dir(r.uploadFile(""))
	files, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		r.opts.Log.Error("uploaded plugins could not be restored", "error", err)
	}
	for _, f := range files {
		name, isUpload := strings.CutSuffix(f.Name(), uploadExt)
		switch path := filepath.Join(dir, f.Name()); {
		case strings.HasSuffix(f.Name(), uploadExt+state.NewExt),
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
			r.installVersion(name, r.loadUpload(name, true))
		}
	}
}

// loadUpload loads the module of an upload's file. If this fails, it returns a version that fails every call, so that
// the built-in is called.
func (r *Registry) loadUpload(name string, inBackground bool) *version {
	code, spec, err := r.readUpload(name)
	if err == nil {
		var v *version
		if v, err = r.loadVersion(name, code, SourceAPI, spec, inBackground); err == nil {
			return v
		}
	}
	err = unloadableError(name, err)
	r.opts.Log.Error(unloadableMsg, "plugin", name, "error", err)
	v := &version{origin: origin{source: SourceAPI, spec: spec}, module: new(wasmhost.Module), loadedAt: r.now(),
		output: r.outputOf(name)}
	v.loadError.Store(&err)
	return v
}

const unloadableMsg = "an uploaded plugin does not load any more"

// unloadableError returns err with a hint: which requests of the API replace or remove the upload.
func unloadableError(name string, err error) error {
	return fmt.Errorf("%w; the built-in is called in its place: PUT /api/v1/plugins/%s replaces it, DELETE removes it",
		err, name)
}

func (r *Registry) readUpload(name string) (code []byte, spec Spec, err error) {
	data, err := readModule(r.uploadFile(name))
	if err != nil {
		return nil, spec, err
	}
	settings, code, _ := bytes.Cut(data, []byte("\n"))
	d := json.NewDecoder(bytes.NewReader(settings))
	d.UseNumber() // numbers keep their text
	if err := d.Decode(&spec.Config); err != nil {
		return nil, spec, fmt.Errorf("%s: its first line: %w", r.uploadFile(name), err)
	}
	return code, spec, nil
}
