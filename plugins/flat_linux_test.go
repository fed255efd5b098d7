package plugins_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// usage is the memory of the process after garbage collections.
type usage struct {
	resident, heap  int // MiB
	goroutines, fds int
	mappings        int // number of memory mappings, including those of compiled code
}

func measure(t testing.TB) usage {
	for range 3 { // finalizers run after a collection; the next collection frees the objects that they release
		runtime.GC()
	}
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	statm, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	pages, err := strconv.Atoi(string(bytes.Fields(statm)[1]))
	require.NoError(t, err)
	fds, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	maps, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	return usage{pages * os.Getpagesize() >> 20, int(m.HeapAlloc >> 20), runtime.NumGoroutine(), len(fds),
		bytes.Count(maps, []byte("\n"))}
}

// After a thousand replacements and a thousand reloads, with calls at the same time, the process needs as
// much memory as after two hundred.
func TestSwapsAndReloadsLeaveMemoryFlat(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds of a processor; make test runs it")
	}
	const swaps, settled = 1000, 200
	r, err := plugins.New(plugins.Options{Limits: patient(), Log: slog.New(slog.DiscardHandler), StateDir: t.TempDir(),
		CacheDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(r.Close)
	modules := builtin.Modules()
	codes := [][]byte{modules["performance"], modules["weighted"]}
	path := filepath.Join(t.TempDir(), "filed.wasm")
	_, err = r.Put("mine", codes[0], nil, false)
	require.NoError(t, err)
	mine, err := r.Scorer("mine", plugins.FallbackRetry)
	require.NoError(t, err)

	stop := coretest.RunConcurrently(2, func(int) {
		if err := mine.Score(make(rows, 20), make([]float64, 20)); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Millisecond)
	})
	var early usage
	for i := range swaps {
		_, err := r.Put("mine", codes[i%2], nil, true)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, codes[i%2], 0o600))
		specs := map[string]plugins.Spec{"filed": {Path: path}}
		if i%10 == 0 {
			require.ErrorIs(t, r.Apply(specs, refuse), errRefused)
		} else {
			require.NoError(t, r.Apply(specs, nil))
		}
		r.PoolChanged(func() []wasmhost.Proxy { return []wasmhost.Proxy{{ID: strconv.Itoa(i)}} })
		if i+1 == settled {
			early = measure(t)
		}
	}
	late := measure(t)
	stop()
	t.Logf("after %d swaps %+v, after %d %+v", settled, early, swaps, late)
	require.LessOrEqual(t, late.resident, early.resident+16, "MiB")
	require.LessOrEqual(t, late.heap, early.heap+4, "MiB")
	require.LessOrEqual(t, late.goroutines, early.goroutines+2)
	require.LessOrEqual(t, late.fds, early.fds)
	require.LessOrEqual(t, late.mappings, early.mappings+20)
}
