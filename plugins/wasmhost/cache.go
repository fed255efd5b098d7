package wasmhost

import (
	"cmp"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tetratelabs/wazero"
)

// maxCached is how many compiled modules the cache keeps: the newest.
const maxCached = 32

// cacheFor is the cache for a module, nil without one: a cache spares time, and
// that it cannot be opened is no reason not to serve.
func (h *Host) cacheFor(code []byte) wazero.CompilationCache {
	if h.cacheDir == "" || !Slow(code) {
		return nil
	}
	cache, err := openCache(h.cacheDir)
	if err != nil && h.NoCache != nil {
		h.NoCache(err)
	}
	return cache
}

// openCache opens the cache of compiled modules and drops what is old in it.
// Whatever is missing is compiled again.
func openCache(dir string) (wazero.CompilationCache, error) {
	type entry struct {
		path string
		made time.Time
	}
	var all []entry
	// One folder for each version of wazero, in it a file for each module.
	paths, _ := fs.Glob(os.DirFS(dir), "wazero-*/*")
	for _, path := range paths {
		path = filepath.Join(dir, path)
		if info, err := os.Stat(path); err == nil {
			all = append(all, entry{path, info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Or(b.made.Compare(a.made), cmp.Compare(a.path, b.path)) })
	for _, e := range all[min(len(all), maxCached-1):] {
		os.Remove(e.path)
	}
	cache, err := wazero.NewCompilationCacheWithDir(dir)
	if err != nil {
		return nil, err
	}
	return cache, nil
}
