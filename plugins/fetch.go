package plugins

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/state"
	"github.com/whirlpool-proxy/whirlpool/plugins/source"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// The first and the longest wait before the next attempt to fetch a module. The wait doubles with each failure.
const (
	firstFetchWait = 2 * time.Second
	maxFetchWait   = 5 * time.Minute
)

// FetchState is the state of a module that is fetched.
type FetchState string

// The states of a module that is fetched. Until the new module has been fetched, the plugin's previous module is
// called, if there is one.
const (
	FetchRunning FetchState = "fetching"
	FetchWaiting FetchState = "waiting" // waits for the next attempt, after a failure
	FetchDone    FetchState = "done"    // fetched, or kept from an earlier run
	FetchFailed  FetchState = "failed"  // the module was refused; its pinned source has no other module
)

// FetchStatus describes the fetch of a plugin's module from the url in [plugins.NAME].
type FetchStatus struct {
	URL       string // without its query
	State     FetchState
	Err       error     // error of the last attempt; nil after a success
	FetchedAt time.Time // UTC; zero if the module was never fetched
	RetryAt   time.Time // UTC; time of the next attempt in the state FetchWaiting
}

// fetcher fetches the module of one plugin in the background.
type fetcher struct {
	name       string
	spec       Spec
	cancel     context.CancelFunc
	fetchAgain chan struct{} // capacity 1; a value makes the fetcher fetch the module again without a wait

	mu     sync.Mutex // guards status
	status FetchStatus
}

func (f *fetcher) updateStatus(change func(*FetchStatus)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.status)
}

func (f *fetcher) currentStatus() *FetchStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	status := f.status
	return &status
}

// fetchers holds the fetchers by the names of their plugins.
type fetchers struct {
	mu     sync.Mutex // guards byName; taken after Registry.mu
	byName map[string]*fetcher
	wg     sync.WaitGroup
}

func (f *fetchers) get(name string) *fetcher {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.byName[name]
}

// syncFetchers starts and stops fetchers, so that each spec with a URL has a fetcher. It makes an existing fetcher
// fetch again after a failure, or if the source is not pinned, because the URL may lead to another module now. The
// caller holds mu.
func (r *Registry) syncFetchers(specs map[string]Spec) {
	if r.opts.Fetch == nil {
		return
	}
	r.fetchers.mu.Lock()
	defer r.fetchers.mu.Unlock()
	for name, f := range r.fetchers.byName {
		spec, stays := specs[name]
		if stays && sameSpec(f.spec, spec) {
			select {
			case f.fetchAgain <- struct{}{}:
			default:
			}
			continue
		}
		f.cancel()
		delete(r.fetchers.byName, name)
		if !stays || spec.Source.URL == "" {
			r.removeFetched(name)
		}
	}
	for name, spec := range specs {
		if spec.Source.URL != "" && r.fetchers.byName[name] == nil {
			r.startFetcher(name, spec)
		}
	}
}

// startFetcher starts the fetcher of one plugin. The caller holds mu and fetchers.mu.
func (r *Registry) startFetcher(name string, spec Spec) {
	f := &fetcher{name: name, spec: spec, fetchAgain: make(chan struct{}, 1)}
	f.status = FetchStatus{URL: spec.Source.URLWithoutQuery(), State: FetchRunning}
	var ctx context.Context
	ctx, f.cancel = context.WithCancel(r.ctx)
	if r.fetchers.byName == nil {
		r.fetchers.byName = map[string]*fetcher{}
	}
	r.fetchers.byName[name] = f
	if p := r.get(name); p != nil {
		if v := p.current.Load(); v.source == SourceConfig && v.spec.Source == spec.Source && !v.notFetched {
			f.status.FetchedAt = v.fetchedAt
			if spec.Source.Pinned() {
				f.status.State = FetchDone
				return
			}
		}
	}
	r.fetchers.wg.Go(func() { r.runFetcher(ctx, f) })
}

// runFetcher fetches the module. It fetches again when a value arrives on fetchAgain, and some time after a failure
// that may be temporary. It returns when a pinned module has been fetched, or when ctx ends.
func (r *Registry) runFetcher(ctx context.Context, f *fetcher) {
	wait := firstFetchWait
	for {
		f.updateStatus(func(s *FetchStatus) { s.State, s.RetryAt = FetchRunning, time.Time{} })
		err := r.fetch(ctx, f)
		if ctx.Err() != nil {
			return
		}
		var timer <-chan time.Time
		switch pinned := f.spec.Source.Pinned(); {
		case err == nil:
			f.updateStatus(func(s *FetchStatus) { s.State, s.Err, s.FetchedAt = FetchDone, nil, r.now().UTC() })
			if pinned {
				return
			}
			wait = firstFetchWait
		case pinned && isRefusal(err):
			f.updateStatus(func(s *FetchStatus) { s.State, s.Err = FetchFailed, err })
			r.logRefusal(f, err)
		default:
			at := r.now().Add(wait).UTC()
			f.updateStatus(func(s *FetchStatus) { s.State, s.Err, s.RetryAt = FetchWaiting, err, at })
			r.opts.Log.Warn("plugin not fetched: "+r.servingText(f.name), slog.String("plugin", f.name),
				slog.String("url", f.spec.Source.URLWithoutQuery()), slog.Any("error", err), slog.Duration("retry_in",
					wait))
			timer = time.After(wait)
			wait = min(2*wait, maxFetchWait)
		}
		select {
		case <-ctx.Done():
			return
		case <-f.fetchAgain:
		case <-timer:
		}
	}
}

// isRefusal reports whether the module itself is the cause of err. If so, another fetch of the same module would fail
// as well.
func isRefusal(err error) bool {
	var rejected *Rejection
	var bad *wasmhost.CheckError
	var key *core.KeyError
	return errors.As(err, &rejected) || errors.As(err, &bad) || errors.As(err, &key)
}

// servingText returns a text for log messages. It states which module is called until the new one has been fetched: the
// plugin's previous module or the built-in.
func (r *Registry) servingText(name string) string {
	if p := r.get(name); p != nil && p.current.Load().module.IsReady() {
		return "the module that it has serves"
	}
	return "the built-in is called in its place"
}

// logRefusal logs that a fetched module was refused. If the plugin has no module yet, its state becomes StateFailed.
func (r *Registry) logRefusal(f *fetcher, err error) {
	r.opts.Log.Error("plugin fetched and refused: "+r.servingText(f.name), slog.String("plugin", f.name),
		slog.String("url", f.spec.Source.URLWithoutQuery()), slog.Any("error", err))
	if p := r.get(f.name); p != nil {
		if v := p.current.Load(); v.notFetched {
			v.loadError.Store(&err)
		}
	}
}

// fetch makes one attempt to fetch a module and put it into the registry.
func (r *Registry) fetch(ctx context.Context, f *fetcher) error {
	m, err := r.opts.Fetch(ctx, f.spec.Source)
	if err != nil {
		return err
	}
	if p := r.get(f.name); p != nil {
		v := p.current.Load()
		if v.source == SourceConfig && sameSpec(v.spec, f.spec) && bytes.Equal(v.code, m.Code) {
			return nil
		}
	}
	var v *version
	err = r.compiler.run(ctx, m.Code, func() (err error) {
		if r.opts.Check != nil {
			if err := r.opts.Check(ctx, m.Code, f.spec); err != nil {
				return err
			}
		}
		v, err = r.loadVersion(f.name, m.Code, SourceConfig, f.spec, false)
		return err
	})
	if err != nil {
		return err
	}
	v.fetchedAt, v.signature = r.now().UTC(), m.Signature
	return r.installFetched(f, v)
}

// installFetched puts a fetched module into the registry, unless the configuration has changed since the fetch began.
func (r *Registry) installFetched(f *fetcher, v *version) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil || r.fetchers.get(f.name) != f {
		v.module.Close()
		return context.Canceled
	}
	if err := r.saveFetched(f.name, v); err != nil {
		r.opts.Log.Warn("fetched plugin not kept in [state] dir: it is fetched again at the next start",
			slog.String("plugin", f.name), slog.Any("error", err))
	}
	old := r.get(f.name)
	if old != nil {
		current := old.current.Load()
		v.hidesUpload.Store(current.hidesUpload.Load())
		if current.source == SourceAPI {
			v.hidesUpload.Store(r.opts.StateDir != "")
			r.opts.Log.Warn(uploadHidden, slog.String("plugin", f.name))
		}
	}
	r.configChanges++ // so that an Apply in progress loads the plugins again, with this module
	if p := r.installVersion(f.name, v); old != nil && p != old {
		old.close()
	}
	r.opts.Log.Info("plugin fetched", slog.String("plugin", f.name), slog.String("url",
		f.spec.Source.URLWithoutQuery()),
		slog.String("sha256", v.sum))
	return nil
}

// pendingVersion returns a version that fails every call, for a plugin whose module has not been fetched yet.
func (r *Registry) pendingVersion(name string, spec Spec) *version {
	return &version{origin: origin{source: SourceConfig, spec: spec}, module: new(wasmhost.Module), notFetched: true,
		loadedAt: r.now(), output: r.outputOf(name)}
}

// fetchedExt is the extension of a fetched module's file. The first line of the file is a fetchedHead in JSON; the
// module follows.
const fetchedExt = ".fetched"

// fetchedHead is the first line of a fetched module's file. It describes the module. If its URL is not the URL in the
// configuration, the file is not used.
type fetchedHead struct {
	URL       string    `json:"url"`
	SHA256    string    `json:"sha256"`
	Signature []byte    `json:"signature,omitempty"`
	FetchedAt time.Time `json:"fetched_at"`
}

func (r *Registry) fetchedFile(name string) string {
	return filepath.Join(r.opts.StateDir, "plugins", name+fetchedExt)
}

// The caller of saveFetched holds mu.
func (r *Registry) saveFetched(name string, v *version) error {
	if r.opts.StateDir == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(r.fetchedFile(name)), 0o700); err != nil {
		return err
	}
	head, err := json.Marshal(fetchedHead{v.spec.Source.URL, v.sum, v.signature, v.fetchedAt})
	if err != nil {
		return err
	}
	return state.WriteFile(state.OS{}, r.fetchedFile(name), slices.Concat(head, []byte("\n"), v.code))
}

func (r *Registry) removeFetched(name string) {
	if r.opts.StateDir == "" {
		return
	}
	if err := os.Remove(r.fetchedFile(name)); err != nil && !os.IsNotExist(err) {
		r.opts.Log.Warn("a fetched plugin that is not used any more cannot be removed from [state] dir",
			slog.String("plugin", name), slog.Any("error", err))
	}
}

// fetchedModule is a module that was fetched before.
type fetchedModule struct {
	source.Module
	fetchedAt time.Time
}

// savedModule returns the module of spec.Source if it was fetched before; otherwise nil. The module comes from the
// plugin in the registry or from the plugin's file. A module from the file is verified again.
func (r *Registry) savedModule(name string, spec Spec) *fetchedModule {
	if p := r.get(name); p != nil {
		v := p.current.Load()
		if v.source == SourceConfig && v.spec.Source == spec.Source && len(v.code) > 0 {
			return &fetchedModule{source.Module{Code: v.code, Signature: v.signature}, v.fetchedAt}
		}
	}
	if r.opts.StateDir == "" {
		return nil
	}
	m, err := readFetched(r.fetchedFile(name), spec.Source)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		r.opts.Log.Warn(fetchedUnusable, slog.String("plugin", name), slog.Any("error", err))
	}
	return m
}

// readFetched returns the module of a file written by saveFetched; nil if the module came from another URL.
func readFetched(path string, from source.Source) (*fetchedModule, error) {
	data, err := readModule(path)
	if err != nil {
		return nil, err
	}
	line, code, _ := bytes.Cut(data, []byte("\n"))
	var head fetchedHead
	if err := json.Unmarshal(line, &head); err != nil {
		return nil, fmt.Errorf("%s: its first line: %w", path, err)
	}
	if head.URL != from.URL {
		return nil, nil
	}
	if head.SHA256 != sha256Of(code) {
		return nil, fmt.Errorf("%s is damaged", path)
	}
	m := &fetchedModule{source.Module{Code: code, Signature: head.Signature}, head.FetchedAt}
	if err := from.Verify(&m.Module); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}
