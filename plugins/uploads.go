package plugins

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

const (
	maxUploads    = 100 // maximum number of uploaded plugins; their modules are kept in memory and on disk
	maxInProgress = 16  // maximum number of uploads being checked or waiting; their modules are in memory
	maxFinished   = 100 // maximum number of finished uploads whose status is kept
)

// ErrTooManyUploads reports that maxInProgress uploads are already being checked.
var ErrTooManyUploads = errors.New("too many uploads are being checked; try again later")

// conflict is an error that wraps core.ErrConflict.
type conflict string

func (c conflict) Error() string { return string(c) }
func (c conflict) Unwrap() error { return core.ErrConflict }

func conflictf(format string, args ...any) error { return conflict(fmt.Sprintf(format, args...)) }

// FailedCheck is a check of sdk/ABI.md that a module has failed.
type FailedCheck struct {
	Name   string // the name that `whirlpool plugin verify` prints
	Detail string // the behaviour of the module
	Fix    string // what to change
}

// Rejection reports that the module of an upload has failed checks.
type Rejection struct{ Failed []FailedCheck }

func (r *Rejection) Error() string {
	parts := make([]string, len(r.Failed))
	for i, c := range r.Failed {
		parts[i] = fmt.Sprintf("check %s failed: %s", c.Name, c.Detail)
		if c.Fix != "" {
			parts[i] += "; " + c.Fix
		}
	}
	return strings.Join(parts, ". ")
}

// UploadState is the state of an Upload.
type UploadState string

// The states of an upload.
const (
	UploadChecking UploadState = "checking" // being checked and compiled, or waiting to be checked
	UploadDone     UploadState = "done"     // the plugin is ready
	UploadFailed   UploadState = "failed"
)

// UploadStatus describes an upload at one time.
type UploadStatus struct {
	ID         string
	Name       string // name of the plugin
	SHA256     string
	State      UploadState
	StartedAt  time.Time // UTC
	FinishedAt time.Time // UTC; zero before the end
	Plugin     Info      // set in the state UploadDone
	Err        error     // set in the state UploadFailed; see Registry.Submit
}

// Upload is a module that is being checked and entered into the registry.
type Upload struct {
	id, name, sum string
	started       time.Time
	done          chan struct{} // closed when the fields below are set

	finished time.Time
	plugin   Info
	err      error
}

// NewUpload returns an upload, and the function that ends it.
func NewUpload(id, name, sha256 string, started time.Time) (u *Upload, end func(plugin Info, err error, at time.Time)) {
	u = &Upload{id: id, name: name, sum: sha256, started: started, done: make(chan struct{})}
	return u, func(plugin Info, err error, at time.Time) {
		u.plugin, u.err, u.finished = plugin, err, at
		close(u.done)
	}
}

// ID returns the argument for Registry.Upload.
func (u *Upload) ID() string { return u.id }

// Done returns a channel that is closed at the end of the upload.
func (u *Upload) Done() <-chan struct{} { return u.done }

// Status returns the current status.
func (u *Upload) Status() UploadStatus {
	s := UploadStatus{ID: u.id, Name: u.name, SHA256: u.sum, State: UploadChecking, StartedAt: u.started.UTC()}
	select {
	case <-u.done:
		s.FinishedAt, s.Plugin, s.Err, s.State = u.finished.UTC(), u.plugin, u.err, UploadDone
		if u.err != nil {
			s.State = UploadFailed
		}
	default:
	}
	return s
}

// uploads holds the uploads in progress, and the last maxFinished uploads that have ended.
type uploads struct {
	mu          sync.Mutex // guards the fields below
	lastID      uint64
	inProgress  int
	byID        map[string]*Upload
	byName      map[string]*Upload // newest upload in progress of each plugin, by name
	finishedIDs []string           // ids, the oldest first
}

// Submit begins to load a module under a name: as a new plugin or, if replace is set, in place of the plugin's module.
// The module is checked (Options.Check), compiled and called once before it is used. If config is nil, the settings of
// the replaced module stay. If persist is not set, the upload lasts until the end of the process, and does not replace
// the file of an earlier upload.
//
// Both Submit and the upload can fail, with the same errors: a *wasmhost.CheckError or a *Rejection if the module is
// the cause, core.ErrNotFound if there is no plugin to replace, core.ErrConflict if the name is taken or cannot be
// changed, ErrTooManyUploads, or an error of the file system.
func (r *Registry) Submit(name string, code []byte, config map[string]any, replace, persist bool) (*Upload, error) {
	return r.submit(name, code, replace, persist, func() ([]byte, map[string]any) {
		if p := r.get(name); p != nil && config == nil {
			return code, p.current.Load().spec.Config
		}
		return code, config
	})
}

// submit implements Submit and Configure. It checks the declarations of the module before the upload begins. The upload
// first waits until earlier uploads with the same name have ended, because the module and its settings may depend on
// them. Then it calls the function input, which returns the module and the settings.
func (r *Registry) submit(
	name string, code []byte, replace, persist bool, input func() (code []byte, config map[string]any),
) (*Upload, error) {
	if err := CheckName(name); err != nil {
		return nil, &wasmhost.CheckError{Msg: err.Error()}
	}
	d, err := r.host.Describe(code)
	if err != nil {
		if allowed := r.checkUploadAllowed(name, "", replace); allowed != nil {
			err = allowed
		}
		return nil, err
	}
	if err := r.checkUploadAllowed(name, d.Kind, replace); err != nil {
		return nil, err
	}
	u, end, previous, err := r.uploads.beginUpload(name, sha256Of(code), r.now())
	if err != nil {
		return nil, err
	}
	r.background.Go(func() {
		if previous != nil { // uploads with the same name are entered in the order of Submit
			<-previous.done
		}
		code, config := input()
		spec := Spec{Config: config, Temporary: !persist}
		plugin, err := r.checkAndInstall(name, code, spec, replace)
		if err == nil {
			r.reportUpload(name, code, &spec)
		}
		r.uploads.endUpload(u)
		end(plugin, err, r.now())
	})
	return u, nil
}

// Put calls Submit and waits for the end of the upload.
func (r *Registry) Put(name string, code []byte, config map[string]any, replace bool) (Info, error) {
	u, err := r.Submit(name, code, config, replace, true)
	if err != nil {
		return Info{}, err
	}
	<-u.done
	return u.plugin, u.err
}

// Upload returns the upload with the given id, which Submit has begun. Of the uploads that have ended, only the last
// maxFinished are kept. The error wraps core.ErrNotFound.
func (r *Registry) Upload(id string) (*Upload, error) {
	r.uploads.mu.Lock()
	defer r.uploads.mu.Unlock()
	if u := r.uploads.byID[id]; u != nil {
		return u, nil
	}
	return nil, fmt.Errorf("upload %q %w", id, core.ErrNotFound)
}

// beginUpload returns a new upload, and the function that ends it. It also returns the newest upload with the same name
// that is still in progress; nil if there is none.
func (u *uploads) beginUpload(name, sum string, now time.Time) (upload *Upload, end func(Info, error, time.Time),
	previous *Upload,
	err error,
) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.inProgress == maxInProgress {
		return nil, nil, nil, ErrTooManyUploads
	}
	if u.byID == nil {
		u.byID, u.byName = map[string]*Upload{}, map[string]*Upload{}
	}
	u.lastID++
	u.inProgress++
	previous = u.byName[name]
	upload, end = NewUpload(strconv.FormatUint(u.lastID, 10), name, sum, now)
	u.byID[upload.id], u.byName[name] = upload, upload
	return upload, end, previous, nil
}

func (u *uploads) endUpload(up *Upload) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.inProgress--
	if u.byName[up.name] == up {
		delete(u.byName, up.name)
	}
	u.finishedIDs = append(u.finishedIDs, up.id)
	if len(u.finishedIDs) > maxFinished {
		delete(u.byID, u.finishedIDs[0])
		u.finishedIDs = u.finishedIDs[1:]
	}
}

func (r *Registry) checkAndInstall(name string, code []byte, spec Spec, replace bool) (Info, error) {
	var v *version
	err := r.compiler.run(r.ctx, code, func() (err error) {
		if r.opts.Check != nil {
			if err := r.opts.Check(r.ctx, code, spec); err != nil {
				return err
			}
		}
		v, err = r.loadVersion(name, code, SourceAPI, spec, false)
		return err
	})
	if err != nil {
		return Info{}, err
	}
	return r.installUpload(name, v, func() error { return r.checkUploadAllowed(name, v.kind(), replace) })
}

// checkUploadAllowed returns an error if a module of the given kind must not be uploaded under the name. The kind is ""
// if it is unknown.
func (r *Registry) checkUploadAllowed(name string, kind wasmhost.Kind, replace bool) error {
	p := r.get(name)
	switch {
	case p != nil && p.current.Load().source == SourceConfig:
		return conflictf("plugin %q comes from the configuration, and is changed there", name)
	case p != nil && !replace:
		return conflictf("plugin %q exists; PUT replaces it", name)
	case p == nil && replace:
		return r.notFound(name)
	case p == nil && r.countUploads() >= maxUploads:
		return conflictf("%d plugins are uploaded; delete one first", maxUploads)
	case p != nil && kind != "" && p.kind() != "" && p.kind() != kind:
		return &wasmhost.CheckError{Msg: fmt.Sprintf("%q is a %s; a %s needs another name", name, p.kind(), kind)}
	}
	return nil
}

func (r *Registry) countUploads() (n int) {
	for _, p := range *r.byName.Load() {
		if p.current.Load().source == SourceAPI {
			n++
		}
	}
	return n
}

// installUpload saves an upload and puts it into the registry. It first calls the function checkAllowed, because
// another plugin may have got the name during the compilation.
func (r *Registry) installUpload(name string, v *version, checkAllowed func() error) (Info, error) {
	var info Info
	err := r.changeAfter(checkAllowed, func() error {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		if !v.spec.Temporary {
			if err := r.saveUpload(name, v); err != nil {
				return err
			}
		}
		info = r.installVersion(name, v).info()
		return nil
	})
	if err != nil {
		v.module.Close()
		return Info{}, err
	}
	r.opts.Log.Info("plugin loaded", slog.String("plugin", name), slog.String("source", v.source),
		slog.String("sha256", v.sum))
	return info, nil
}

// installVersion puts a version into the registry under a name. The caller holds mu.
func (r *Registry) installVersion(name string, v *version) *plugin {
	all := *r.byName.Load()
	p := all[name]
	if p != nil && p.canReplace(v) {
		r.publishVersions(all, []*version{v}, func() { p.replaceVersion(v) })
		return p
	}
	all = maps.Clone(all)
	all[name] = r.newPlugin(name, v)
	r.publishVersions(all, []*version{v}, func() {})
	if p != nil {
		p.close()
	}
	return all[name]
}

// Delete removes an uploaded plugin, even if a configured plugin hides it. The function useOf returns how a plugin is
// used, as a text for an error message; "" if it is not used. Delete calls useOf without a lock, and again if the
// registry was changed during the call. The error of Delete wraps core.ErrNotFound or core.ErrConflict, or is an error
// of the file system.
func (r *Registry) Delete(name string, useOf func(name string) string) error {
	err := r.removePlugin(name, useOf)
	if err == nil {
		r.reportUpload(name, nil, &Spec{})
	}
	return err
}

func (r *Registry) removePlugin(name string, useOf func(name string) string) error {
	checkAllowed := func() error {
		p := r.get(name)
		if p == nil {
			return r.notFound(name)
		}
		switch v := p.current.Load(); {
		case v.hidesUpload.Load():
			return nil
		case v.source != SourceAPI:
			return conflictf("plugin %q was not uploaded, so it is not deleted here", name)
		}
		return checkUnused(name, useOf)
	}
	return r.changeAfter(checkAllowed, func() error {
		// The file is removed first. If the file remained after the plugin was removed, a restart would restore the
		// plugin.
		if err := r.removeUpload(name); err != nil {
			return err
		}
		all := maps.Clone(*r.byName.Load())
		p := all[name]
		if v := p.current.Load(); v.hidesUpload.Swap(false) {
			r.revision++
			return nil
		}
		delete(all, name)
		r.publishPlugins(all)
		p.close()
		return nil
	})
}

// checkUnused returns an error if a plugin is in use. The function useOf is described at Delete.
func checkUnused(name string, useOf func(name string) string) error {
	if use := useOf(name); use != "" {
		return conflictf("plugin %q is in use as %s; activate another first", name, use)
	}
	return nil
}

// canRollBack reports whether v is an upload that has replaced another upload. RollBack can then return to the other
// upload.
func (v *version) canRollBack() bool { return v.source == SourceAPI && v.previous != nil }

// RollBack returns to the previous module of an uploaded plugin. The error wraps core.ErrNotFound or core.ErrConflict,
// or it is a *wasmhost.CheckError or an error of the file system.
func (r *Registry) RollBack(name string) (Info, error) {
	var target origin
	findTarget := func() error {
		p := r.get(name)
		if p == nil {
			return r.notFound(name)
		}
		current := p.current.Load()
		if !current.canRollBack() {
			return conflictf("plugin %q has no earlier upload to go back to", name)
		}
		target = *current.previous
		return nil
	}
	if err := findTarget(); err != nil {
		return Info{}, err
	}
	var v *version
	err := r.compiler.run(r.ctx, target.code, func() (err error) {
		v, err = r.loadVersion(name, target.code, target.source, target.spec, false)
		return err
	})
	if err != nil {
		return Info{}, err
	}
	i, err := r.installUpload(name, v, func() error {
		loadedSum := target.sum
		if err := findTarget(); err != nil {
			return err
		}
		if target.sum != loadedSum {
			return conflictf("plugin %q was changed meanwhile; roll back again", name)
		}
		return nil
	})
	if err == nil {
		r.reportUpload(name, target.code, &target.spec)
	}
	return i, err
}

// Release ends a plugin's quarantine. The error wraps core.ErrNotFound.
func (r *Registry) Release(name string) (Info, error) {
	p := r.get(name)
	if p == nil {
		return Info{}, r.notFound(name)
	}
	p.endQuarantine()
	return p.info(), nil
}
