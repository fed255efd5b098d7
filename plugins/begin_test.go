package plugins_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// large appends a custom section of zeros, so that the module is compiled in the background.
func large(module []byte) []byte {
	section := wasmtest.Vec(nil, []byte("padding"))
	section = append(section, make([]byte, wasmhost.SlowBytes)...)
	return append(bytes.Clone(module), wasmtest.Vec([]byte{0}, section)...)
}

func beginning(t *testing.T, opts plugins.Options, specs map[string]plugins.Spec) *plugins.Registry {
	opts.Log = slog.New(slog.DiscardHandler)
	r, err := plugins.New(opts)
	require.NoError(t, err)
	t.Cleanup(r.Close)
	require.NoError(t, r.ApplyAtStart(specs))
	return r
}

func settled(t *testing.T, r *plugins.Registry, name string) plugins.Info {
	var info plugins.Info
	require.Eventually(t, func() bool {
		var err error
		info, err = r.Get(name)
		require.NoError(t, err)
		return info.State != plugins.StateCompiling
	}, 30*time.Second, time.Millisecond)
	return info
}

// score calls a scorer with two candidates, of which the first is better.
func score(t *testing.T, r *plugins.Registry, name string) []float64 {
	s, err := r.Scorer(name, plugins.FallbackRetry)
	require.NoError(t, err)
	scores := make([]float64, 2)
	require.NoError(t, s.Score(rows{{SuccessRate: 1, Weight: 1, InFlight: 5}, {SuccessRate: 0.5, Weight: 1}}, scores))
	return scores
}

func TestAStartDoesNotWaitForALargeModule(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "mine.wasm")
	require.NoError(t, os.WriteFile(path, large(builtin.Modules()["least_in_flight"]), 0o600))
	specs := map[string]plugins.Spec{"mine": {Path: path}}
	for range 2 { // the second start finds the compiled code in the cache
		r := beginning(t, plugins.Options{CacheDir: filepath.Join(dir, "cache")}, specs)
		score(t, r, "mine") // the plugin or the built-in computes scores
		info := settled(t, r, "mine")
		require.Equal(t, plugins.StateReady, info.State)
		require.Equal(t, []float64{-5, 0}, score(t, r, "mine"))
		require.Zero(t, info.Faults, "not being ready is not a fault")
		files, err := filepath.Glob(filepath.Join(dir, "cache", "wazero-*", "*"))
		require.NoError(t, err)
		require.Len(t, files, 1)
	}
}

func TestALargeModuleThatFailsIsShown(t *testing.T) {
	module := wasmtest.Scorer(wasmtest.Unreachable)
	path := filepath.Join(t.TempDir(), "mine.wasm")
	require.NoError(t, os.WriteFile(path, large(module.Bytes()), 0o600))
	r := beginning(t, plugins.Options{}, map[string]plugins.Spec{"mine": {Path: path}})
	info := settled(t, r, "mine")
	require.Equal(t, plugins.StateFailed, info.State)
	require.Contains(t, info.LastError, "unreachable")
	require.InDeltaSlice(t, []float64{1, 0.65}, score(t, r, "mine"), 1e-9, "performance answers")
	require.Zero(t, info.Faults)
}

// Whatever the cache contains, a module is compiled.
func TestADamagedCache(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "mine.wasm")
	require.NoError(t, os.WriteFile(path, large(builtin.Modules()["least_in_flight"]), 0o600))
	specs := map[string]plugins.Spec{"mine": {Path: path}}
	cache := filepath.Join(dir, "cache")
	settled(t, beginning(t, plugins.Options{CacheDir: cache}, specs), "mine")
	files, err := filepath.Glob(filepath.Join(cache, "wazero-*", "*"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	whole, err := os.ReadFile(files[0])
	require.NoError(t, err)
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 0xff
	for _, damaged := range [][]byte{nil, whole[:len(whole)/2], []byte("something else"), flipped} {
		require.NoError(t, os.WriteFile(files[0], damaged, 0o600))
		r := beginning(t, plugins.Options{CacheDir: cache}, specs)
		require.Equal(t, plugins.StateReady, settled(t, r, "mine").State)
		require.Equal(t, []float64{-5, 0}, score(t, r, "mine"))
	}
}

// An upload of a large module that fails is listed with its error, which states what to change.
func TestALargeUploadThatFailsIsShown(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "plugins"), 0o700))
	module := large(wasmtest.Scorer(wasmtest.Unreachable).Bytes())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "plugins", "mine.upload"), append([]byte("null\n"), module...),
		0o600))
	r, err := plugins.New(plugins.Options{
		Limits: patient(), StateDir: dir, Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	defer r.Close()
	r.Wait()
	info, err := r.Get("mine")
	require.NoError(t, err)
	require.Equal(t, plugins.StateFailed, info.State)
	require.Contains(t, info.LastError, "unreachable")
	require.Contains(t, info.LastError, "PUT /api/v1/plugins/mine replaces it")
}

// A cache that cannot be opened is logged. Nothing else changes.
func TestNoCache(t *testing.T) {
	dir := t.TempDir()
	path, cache := filepath.Join(dir, "mine.wasm"), filepath.Join(dir, "a file", "cache")
	require.NoError(t, os.WriteFile(path, large(builtin.Modules()["least_in_flight"]), 0o600))
	require.NoError(t, os.WriteFile(filepath.Dir(cache), nil, 0o600))
	var log bytes.Buffer
	r, err := plugins.New(plugins.Options{
		Limits: patient(), CacheDir: cache, Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	require.NoError(t, err)
	defer r.Close()
	require.NoError(t, r.ApplyAtStart(map[string]plugins.Spec{"mine": {Path: path}}))
	r.Wait()
	require.Equal(t, []float64{-5, 0}, score(t, r, "mine"))
	_, err = r.Put("another", large(builtin.Modules()["random"]), nil, false)
	require.NoError(t, err)
	require.Contains(t, log.String(), "level=WARN")
	require.Contains(t, log.String(), "plugins.cache_dir")
}

// The number of modules in the cache is limited.
func TestTheCacheIsBounded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a[b]") // the name is not a pattern
	r, err := plugins.New(plugins.Options{
		Limits: patient(), CacheDir: dir, Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	defer r.Close()
	for i := range 40 {
		module := large(builtin.Modules()["random"])
		module[len(module)-1] = byte(i)
		_, err := r.Put("mine", module, nil, i > 0)
		require.NoError(t, err)
	}
	files, err := fs.Glob(os.DirFS(dir), "wazero-*/*")
	require.NoError(t, err)
	require.LessOrEqual(t, len(files), 32)
	require.Greater(t, len(files), 1)
}

// A few modules are compiled at the same time. A module that is removed before its turn is not compiled.
func TestManyLargeModules(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds of a processor; make test runs it")
	}
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "plugins"), 0o700))
	const many = 30
	slow := wasmtest.Scorer().Add(wasmtest.Func{Code: wasmtest.Repeat(3000, 0x41, 0, 0x41, 0, 0x28, 2, 0,
		wasmtest.I32Store, 2, 0)})
	for i := range many {
		file := filepath.Join(dir, "plugins", fmt.Sprintf("p%d.upload", i))
		require.NoError(t, os.WriteFile(file, append([]byte("null\n"), large(slow.Bytes())...), 0o600))
	}
	for _, c := range []struct {
		wait bool
		most int
	}{{true, many}, {false, many - 1}} {
		var log bytes.Buffer
		r, err := plugins.New(plugins.Options{
			Limits: patient(), StateDir: dir, Log: slog.New(slog.NewTextHandler(&log, nil)),
		})
		require.NoError(t, err)
		if c.wait {
			r.Wait()
			require.Equal(t, many, strings.Count(log.String(), "plugin compiled"))
		}
		r.Close()
		require.LessOrEqual(t, strings.Count(log.String(), "plugin compiled"), c.most)
		require.NotContains(t, log.String(), "level=ERROR")
	}
}

// Close waits for the compilations in progress.
func TestCloseDuringCompilation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mine.wasm")
	require.NoError(t, os.WriteFile(path, large(builtin.Modules()["random"]), 0o600))
	for range 20 {
		beginning(t, plugins.Options{}, map[string]plugins.Spec{"mine": {Path: path}}).Close()
	}
}
