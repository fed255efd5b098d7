package plugins_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/source"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// constant is a scorer that gives every candidate the score x.
func constant(x float64) []byte { return w.Scorer(w.Scores(x)...).Bytes() }

func sumOf(code []byte) string {
	sum := sha256.Sum256(code)
	return hex.EncodeToString(sum[:])
}

// fetching is a registry, and the source that its modules come from.
type fetching struct {
	*plugins.Registry
	t     *testing.T
	dir   string
	begun time.Time

	mu      sync.Mutex // guards the fields below
	offline bool
	code    []byte // module at the source
	asked   []time.Duration
	log     bytes.Buffer
}

// Write appends to the log.
func (f *fetching) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.Write(p)
}

// logged returns the log so far.
func (f *fetching) logged() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.String()
}

// attempts returns the times at which a module was fetched.
func (f *fetching) attempts() []time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

// place sets the module at the source. Without code the source is offline.
func (f *fetching) place(code []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.code, f.offline = code, code == nil
}

var errOffline = errors.New("connection refused")

func (f *fetching) fetch(_ context.Context, from source.Source) (*source.Module, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, time.Since(f.begun))
	if f.offline {
		return nil, errOffline
	}
	m := &source.Module{Code: f.code}
	return m, from.Verify(m)
}

// inFetching runs the function test in virtual time.
func inFetching(t *testing.T, test func(f *fetching)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := &fetching{t: t, dir: dir, begun: time.Now()}
		f.open()
		defer func() { f.Close() }()
		test(f)
	})
}

func (f *fetching) open() {
	var err error
	f.Registry, err = plugins.New(plugins.Options{Log: slog.New(slog.NewTextHandler(f, nil)), StateDir: f.dir,
		Fetch: f.fetch})
	require.NoError(f.t, err)
}

// configure loads specs as the start or a reload of the gateway does.
func (f *fetching) configure(specs map[string]plugins.Spec) {
	require.NoError(f.t, f.Apply(specs, nil))
	synctest.Wait()
}

func (f *fetching) restart(specs map[string]plugins.Spec) {
	f.Close()
	f.open()
	f.configure(specs)
}

func (f *fetching) info() plugins.Info {
	i, err := f.Get("mine")
	require.NoError(f.t, err)
	return i
}

// score returns the plugin's score; -1 if the built-in was called instead.
func (f *fetching) score() float64 {
	s, err := f.Scorer("mine", "round_robin")
	require.NoError(f.t, err)
	scores := make([]float64, 2)
	require.NoError(f.t, s.Score(rows{{Rotation: 1}, {Rotation: 2}}, scores))
	if scores[0] != scores[1] {
		return -1
	}
	return scores[0]
}

func from(s source.Source) map[string]plugins.Spec {
	return map[string]plugins.Spec{"mine": {Source: s}}
}

// pinned returns a spec for exactly one module. The variable mutable has a spec for any module.
func pinned(code []byte) map[string]plugins.Spec {
	return from(source.Source{URL: "https://a.test/m?token=secret", SHA256: sumOf(code)})
}

var mutable = from(source.Source{URL: "https://a.test/latest", Insecure: true})

func TestAModuleIsFetchedInTheBackground(t *testing.T) {
	inFetching(t, func(f *fetching) {
		five := constant(5)
		f.place(nil)
		f.configure(pinned(five))
		i := f.info()
		require.Equal(t, plugins.StateFetching, i.State)
		require.Equal(t, plugins.FetchWaiting, i.Fetch.State)
		require.Equal(t, "https://a.test/m", i.Fetch.URL)
		require.ErrorIs(t, i.Fetch.Err, errOffline)
		require.Equal(t, time.Now().Add(2*time.Second).UTC(), i.Fetch.RetryAt)
		require.Equal(t, -1.0, f.score(), "the built-in answers")

		time.Sleep(20 * time.Minute)
		f.place(five)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		s := time.Second
		require.Equal(t, []time.Duration{0, 2 * s, 6 * s, 14 * s, 30 * s, 62 * s, 126 * s, 254 * s, 510 * s, 810 * s,
			1110 * s, 1410 * s}, f.attempts())
		i = f.info()
		require.Equal(t, plugins.StateReady, i.State)
		require.Equal(t, plugins.SourceConfig, i.Source)
		require.Equal(t, plugins.FetchDone, i.Fetch.State)
		require.NoError(t, i.Fetch.Err)
		require.Equal(t, f.begun.Add(1410*s).UTC(), i.Fetch.FetchedAt)
		require.Equal(t, 5.0, f.score())
		require.Contains(t, f.logged(), "the built-in is called in its place")
		require.Contains(t, f.logged(), `msg="plugin fetched" plugin=mine url=https://a.test/m sha256=`)
		require.NotContains(t, f.logged(), "secret")

		// A pinned module is not fetched again, neither at a reload nor at the start.
		f.place(nil)
		f.configure(pinned(five))
		f.restart(pinned(five))
		require.Len(t, f.attempts(), 12)
		require.Equal(t, 5.0, f.score())
		require.Equal(t, f.begun.Add(1410*s).UTC(), f.info().Fetch.FetchedAt)
	})
}

func TestTheRunningModuleStays(t *testing.T) {
	inFetching(t, func(f *fetching) {
		one, two := constant(1), constant(2)
		f.place(one)
		f.configure(pinned(one))
		require.Equal(t, 1.0, f.score())
		f.place(nil)
		f.configure(pinned(two))
		require.Equal(t, 1.0, f.score(), "the next one cannot be had")
		i := f.info()
		require.Equal(t, plugins.StateReady, i.State)
		require.Equal(t, plugins.FetchWaiting, i.Fetch.State)
		require.Contains(t, f.logged(), "the module that it has serves")
		f.place(one)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.ErrorContains(t, f.info().Fetch.Err, "another SHA-256")
		f.place(two)
		f.configure(pinned(two)) // a reload does not wait for the next attempt
		require.Equal(t, 2.0, f.score())
	})
}

func TestAMutableSourceIsFetchedAgain(t *testing.T) {
	inFetching(t, func(f *fetching) {
		f.place(constant(1))
		f.configure(mutable)
		require.Equal(t, 1.0, f.score())
		f.place(constant(2))
		time.Sleep(24 * time.Hour)
		require.Equal(t, 1.0, f.score())
		f.configure(mutable)
		require.Equal(t, 2.0, f.score(), "a reload fetches again")
		f.place(constant(3))
		f.restart(mutable)
		require.Equal(t, 3.0, f.score(), "and so does a start")
		f.place(nil)
		f.restart(mutable)
		require.Equal(t, 3.0, f.score(), "the kept one serves")
		require.Equal(t, plugins.FetchWaiting, f.info().Fetch.State)
	})
}

func TestKeptModulesAreVerified(t *testing.T) {
	inFetching(t, func(f *fetching) {
		one := constant(1)
		f.place(one)
		f.configure(pinned(one))
		file := filepath.Join(f.dir, "plugins", "mine.fetched")
		kept, err := os.ReadFile(file)
		require.NoError(t, err)
		f.place(nil)
		for name, data := range map[string][]byte{
			"damaged":       append(bytes.Clone(kept), 0),
			"another head":  append([]byte("nonsense\n"), one...),
			"another file":  bytes.Replace(kept, []byte("token=secret"), []byte("token=other_"), 1),
			"empty":         nil,
			"without a sum": []byte("{}\n"),
		} {
			require.NoError(t, os.WriteFile(file, data, 0o600))
			f.restart(pinned(one))
			require.Equal(t, plugins.StateFetching, f.info().State, name)
		}
		require.NoError(t, os.WriteFile(file, kept, 0o600))
		f.restart(pinned(constant(2)))
		require.Equal(t, plugins.StateFetching, f.info().State, "the configuration wants another module")
		f.restart(pinned(one))
		require.Equal(t, 1.0, f.score())
		f.configure(nil)
		require.NoFileExists(t, file, "it goes with its table")
		_, err = f.Get("mine")
		require.ErrorIs(t, err, core.ErrNotFound)
	})
}

func TestARefusedModule(t *testing.T) {
	inFetching(t, func(f *fetching) {
		f.place([]byte("no module"))
		f.configure(pinned([]byte("no module")))
		i := f.info()
		require.Equal(t, plugins.StateFailed, i.State)
		require.Contains(t, i.LastError, "WebAssembly")
		require.Equal(t, plugins.FetchFailed, i.Fetch.State)
		time.Sleep(time.Hour)
		require.Len(t, f.attempts(), 1, "the same module would be refused again")
		require.Equal(t, -1.0, f.score())

		f.configure(mutable)
		require.Equal(t, plugins.FetchWaiting, f.info().Fetch.State, "another may come")
		f.place(constant(1))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Equal(t, 1.0, f.score())

		// If a kept module cannot be loaded any more, a reload fails, but the start does not.
		specs := map[string]plugins.Spec{"mine": {Source: mutable["mine"].Source, Kind: wasmhost.Backoff}}
		require.ErrorContains(t, f.Apply(specs, nil), "https://a.test/latest is a scorer")
		f.restart(nil)
		require.NoError(t, f.ApplyAtStart(specs))
		synctest.Wait()
		require.Equal(t, plugins.StateFetching, f.info().State)
		require.Equal(t, wasmhost.Backoff, f.info().Kind)
		require.ErrorContains(t, f.info().Fetch.Err, "https://a.test/latest is a scorer")
	})
}

// When a module of the configuration has been fetched, it hides an upload with the same name. When the
// configuration does not have it any more, the upload is used again.
func TestAFetchedModuleAndAnUpload(t *testing.T) {
	inFetching(t, func(f *fetching) {
		_, err := f.Put("mine", constant(7), nil, false)
		require.NoError(t, err)
		f.place(nil)
		f.configure(mutable)
		require.Equal(t, 7.0, f.score())
		require.Equal(t, plugins.SourceAPI, f.info().Source)
		f.place(constant(1))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Equal(t, 1.0, f.score())
		require.True(t, f.info().HidesUpload)
		_, err = f.Put("mine", constant(8), nil, true)
		require.ErrorIs(t, err, core.ErrConflict)
		f.configure(nil)
		require.Equal(t, 7.0, f.score())
		require.Nil(t, f.info().Fetch)
	})
}

// If a plugin is removed from the configuration while its module is being fetched, it is not added again.
func TestATableThatIsRemovedDuringAFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fetched := make(chan struct{})
		r, err := plugins.New(plugins.Options{Log: slog.New(slog.DiscardHandler),
			Fetch: func(context.Context, source.Source) (*source.Module, error) {
				<-fetched
				return &source.Module{Code: constant(1)}, nil
			}})
		require.NoError(t, err)
		defer r.Close()
		for _, specs := range []map[string]plugins.Spec{mutable, nil} {
			require.NoError(t, r.Apply(specs, nil))
			synctest.Wait()
		}
		close(fetched)
		synctest.Wait()
		_, err = r.Get("mine")
		require.ErrorIs(t, err, core.ErrNotFound)
	})
}

func TestLimitsOfOnePlugin(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "mine.wasm")
	// The loop takes about 4 million units of fuel, more than the default limit.
	loop := w.Join(w.Const32(800_000), []byte{w.LocalSet, 4, w.Loop, w.Empty, w.LocalGet, 4}, w.Const32(1),
		[]byte{w.I32Sub, w.LocalSet, 4, w.LocalGet, 4, w.BrIf, 0, w.End}, w.Scores(1))
	m := w.Scorer(loop...)
	m.Funcs[len(m.Funcs)-1].Locals = []w.Group{{Count: 1, Type: w.I32}}
	require.NoError(t, os.WriteFile(path, m.Bytes(), 0o600))
	big := filepath.Join(dir, "big.wasm")
	m = w.Scorer(w.Scores(1)...)
	m.Memories = []w.Limits{{Min: 300}}
	require.NoError(t, os.WriteFile(big, m.Bytes(), 0o600))
	r, err := plugins.New(plugins.Options{Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer r.Close()
	for _, c := range []struct {
		path   string
		limits plugins.Limits
		says   string
	}{
		{path, plugins.Limits{}, "fuel"},
		{path, plugins.Limits{Fuel: 10_000_000, CallTimeout: time.Second}, ""},
		{path, plugins.Limits{Fuel: 10_000_000, CallTimeout: time.Microsecond}, "timeout"},
		{big, plugins.Limits{}, "256"},
		{big, plugins.Limits{MemoryBytes: 301<<16 - 1}, ""},
		{big, plugins.Limits{MemoryBytes: 299 << 16}, "299"},
	} {
		err := r.Apply(map[string]plugins.Spec{"mine": {Path: c.path, Limits: c.limits}}, nil)
		if c.says != "" {
			require.ErrorContains(t, err, c.says, fmt.Sprint(c))
			continue
		}
		require.NoError(t, err, fmt.Sprint(c))
	}
}
