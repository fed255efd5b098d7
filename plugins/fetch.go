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

// The first and the longest wait before the next attempt to fetch a module. The wait doubles with
// each failure.
const (
	firstFetchWait = 2 * time.Second
	maxFetchWait   = 5 * time.Minute
)

// FetchState is the state of a module that is fetched.
type FetchState string

// The states of a module that is fetched. In each state, a module that the plugin already has continues to serve.
const (
	FetchRunning FetchState = "fetching"
	FetchWaiting FetchState = "waiting" // waits for the next attempt, after a failure
	FetchDone    FetchState = "done"    // fetched, or kept from an earlier run
	FetchFailed  FetchState = "failed"  // the module was refused; its pinned source has no other module
)

// FetchStatus describes how the module of a [plugins.NAME] with a url is fetched.
type FetchStatus struct {
	URL       string // without its query
	State     FetchState
	Err       error     // of the last attempt; nil after a success
	FetchedAt time.Time // UTC; zero if the module was never fetched
	RetryAt   time.Time // UTC; time of the next attempt in the state FetchWaiting
}

// fetcher fetches the module of one plugin in the background.
type fetcher struct {
	name   string
	spec   Spec
	cancel context.CancelFunc
	again  chan struct{} // capacity 1; a value makes the fetcher fetch the module again without a wait

	mu     sync.Mutex // guards status
	status FetchStatus
}

func (f *fetcher) set(change func(*FetchStatus)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.status)
}

func (f *fetcher) current() *FetchStatus {
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

// syncFetchers starts and stops fetchers, so that each spec with a URL has a fetcher. Modules whose source is not
// pinned are fetched again, because the URL may lead to another module now. Modules that could not be fetched are
// fetched again, too. The caller holds mu.
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
			case f.again <- struct{}{}:
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
	f := &fetcher{name: name, spec: spec, again: make(chan struct{}, 1)}
	f.status = FetchStatus{URL: spec.Source.Place(), State: FetchRunning}
	var ctx context.Context
	ctx, f.cancel = context.WithCancel(r.closing)
	if r.fetchers.byName == nil {
		r.fetchers.byName = map[string]*fetcher{}
	}
	r.fetchers.byName[name] = f
	if p := r.get(name); p != nil {
		if v := p.current.Load(); v.source == SourceConfig && v.spec.Source == spec.Source && !v.pending {
			f.status.FetchedAt = v.fetched
			if spec.Source.Pinned() {
				f.status.State = FetchDone
				return
			}
		}
	}
	r.fetchers.wg.Go(func() { r.runFetcher(ctx, f) })
}

// runFetcher fetches the module, and fetches it again on request, until a pinned module has been
// fetched or ctx ends.
func (r *Registry) runFetcher(ctx context.Context, f *fetcher) {
	wait := firstFetchWait
	for {
		f.set(func(s *FetchStatus) { s.State, s.RetryAt = FetchRunning, time.Time{} })
		err := r.fetch(ctx, f)
		if ctx.Err() != nil {
			return
		}
		var timer <-chan time.Time
		switch pinned := f.spec.Source.Pinned(); {
		case err == nil:
			f.set(func(s *FetchStatus) { s.State, s.Err, s.FetchedAt = FetchDone, nil, r.now().UTC() })
			if pinned {
				return
			}
			wait = firstFetchWait
		case pinned && isRefusal(err):
			f.set(func(s *FetchStatus) { s.State, s.Err = FetchFailed, err })
			r.fail(f, err)
		default:
			at := r.now().Add(wait).UTC()
			f.set(func(s *FetchStatus) { s.State, s.Err, s.RetryAt = FetchWaiting, err, at })
			r.opts.Log.Warn("plugin not fetched: "+r.meanwhile(f.name), slog.String("plugin", f.name),
				slog.String("url", f.spec.Source.Place()), slog.Any("error", err), slog.Duration("retry_in", wait))
			timer = time.After(wait)
			wait = min(2*wait, maxFetchWait)
		}
		select {
		case <-ctx.Done():
			return
		case <-f.again:
		case <-timer:
		}
	}
}

// isRefusal reports whether err is an error of the module itself. If so, another fetch of the same module would fail
// again.
func isRefusal(err error) bool {
	var rejected *Rejection
	var bad *wasmhost.CheckError
	var key *core.KeyError
	return errors.As(err, &rejected) || errors.As(err, &bad) || errors.As(err, &key)
}

// meanwhile returns a part of a log message. It states whether the plugin's present module serves until a new one is
// fetched, or the built-in is called.
func (r *Registry) meanwhile(name string) string {
	if p := r.get(name); p != nil && p.current.Load().module.Ready() {
		return "the module that it has serves"
	}
	return "the built-in is called in its place"
}

// fail logs that the module of a fetcher was refused with err. If the plugin has no module yet, its state becomes
// StateFailed.
func (r *Registry) fail(f *fetcher, err error) {
	r.opts.Log.Error("plugin fetched and refused: "+r.meanwhile(f.name), slog.String("plugin", f.name),
		slog.String("url", f.spec.Source.Place()), slog.Any("error", err))
	if p := r.get(f.name); p != nil {
		if v := p.current.Load(); v.pending {
			v.failed.Store(&err)
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
		v, err = r.load(f.name, m.Code, SourceConfig, f.spec, false)
		return err
	})
	if err != nil {
		return err
	}
	v.fetched, v.signature = r.now().UTC(), m.Signature
	return r.takeFetched(f, v)
}

// takeFetched puts a fetched module into the registry, unless the configuration has changed since the fetch
// began.
func (r *Registry) takeFetched(f *fetcher, v *version) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing.Err() != nil || r.fetchers.get(f.name) != f {
		v.module.Close()
		return context.Canceled
	}
	if err := r.keepFetched(f.name, v); err != nil {
		r.opts.Log.Warn("fetched plugin not kept in [state] dir: it is fetched again at the next start",
			slog.String("plugin", f.name), slog.Any("error", err))
	}
	old := r.get(f.name)
	if old != nil {
		was := old.current.Load()
		v.hides.Store(was.hides.Load())
		if was.source == SourceAPI {
			v.hides.Store(r.opts.StateDir != "")
			r.opts.Log.Warn(placeTaken, slog.String("plugin", f.name))
		}
	}
	r.configured++ // so that a Stage in progress loads the plugins again, with this module
	if p := r.install(f.name, v); old != nil && p != old {
		old.retire()
	}
	r.opts.Log.Info("plugin fetched", slog.String("plugin", f.name), slog.String("url", f.spec.Source.Place()),
		slog.String("sha256", v.sum))
	return nil
}

// pendingVersion returns a version that fails every call, for a plugin whose module has not been fetched yet.
func (r *Registry) pendingVersion(name string, spec Spec) *version {
	return &version{origin: origin{source: SourceConfig, spec: spec}, module: new(wasmhost.Module), pending: true,
		loaded: r.now(), output: r.outputOf(name)}
}

// fetchedExt is the extension of the files of fetched modules. Such a file has a line with a fetchedHead in
// JSON, and then the module.
const fetchedExt = ".fetched"

// fetchedHead describes a kept module. The URL is compared with the configuration, and the SHA-256 with the module.
type fetchedHead struct {
	URL       string    `json:"url"`
	SHA256    string    `json:"sha256"`
	Signature []byte    `json:"signature,omitempty"`
	FetchedAt time.Time `json:"fetched_at"`
}

func (r *Registry) fetchedFile(name string) string {
	return filepath.Join(r.opts.StateDir, "plugins", name+fetchedExt)
}

// keepFetched writes the file of a fetched module. The caller holds mu.
func (r *Registry) keepFetched(name string, v *version) error {
	if r.opts.StateDir == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(r.fetchedFile(name)), 0o700); err != nil {
		return err
	}
	head, err := json.Marshal(fetchedHead{v.spec.Source.URL, v.sum, v.signature, v.fetched})
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

// fetched is a module that was fetched before.
type fetched struct {
	source.Module
	at time.Time
}

// kept returns the module of spec.Source if this module was fetched before, and nil otherwise. If the plugin
// with the given name does not have the module, kept reads the module from its file, and verifies it again.
func (r *Registry) kept(name string, spec Spec) *fetched {
	if p := r.get(name); p != nil {
		v := p.current.Load()
		if v.source == SourceConfig && v.spec.Source == spec.Source && len(v.code) > 0 {
			return &fetched{source.Module{Code: v.code, Signature: v.signature}, v.fetched}
		}
	}
	if r.opts.StateDir == "" {
		return nil
	}
	m, err := readFetched(r.fetchedFile(name), spec.Source)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		r.opts.Log.Warn(keptUnusable, slog.String("plugin", name), slog.Any("error", err))
	}
	return m
}

// readFetched returns the module of a file written by keepFetched. It returns nil if the module came
// from another URL.
func readFetched(path string, from source.Source) (*fetched, error) {
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
	m := &fetched{source.Module{Code: code, Signature: head.Signature}, head.FetchedAt}
	if err := from.Verify(&m.Module); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}
