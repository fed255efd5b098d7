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

// maxCacheFiles is the maximum number of compiled modules in the cache.
const maxCacheFiles = 32

// cacheFor returns the cache for a module. It returns nil if the host has no cache, the module compiles quickly, or the
// cache cannot be opened.
func (h *Host) cacheFor(code []byte) wazero.CompilationCache {
	if h.cacheDir == "" || !IsSlowToCompile(code) {
		return nil
	}
	cache, err := openCache(h.cacheDir)
	if err != nil && h.OnCacheError != nil {
		h.OnCacheError(err)
	}
	return cache
}

// openCache opens the cache of compiled modules. If the cache is full (maxCacheFiles), openCache first deletes the
// oldest modules, so that there is room for a new module.
func openCache(dir string) (wazero.CompilationCache, error) {
	type entry struct {
		path string
		made time.Time
	}
	var all []entry
	// wazero makes a folder for each version of wazero, and in it a file for each module.
	paths, _ := fs.Glob(os.DirFS(dir), "wazero-*/*")
	for _, path := range paths {
		path = filepath.Join(dir, path)
		if info, err := os.Stat(path); err == nil {
			all = append(all, entry{path, info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Or(b.made.Compare(a.made), cmp.Compare(a.path, b.path)) })
	for _, e := range all[min(len(all), maxCacheFiles-1):] {
		os.Remove(e.path)
	}
	cache, err := wazero.NewCompilationCacheWithDir(dir)
	if err != nil {
		return nil, err
	}
	return cache, nil
}
