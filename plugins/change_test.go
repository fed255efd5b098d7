package plugins_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

var errRefused = errors.New("refused")

// refuse is a check for Registry.Apply.
func refuse(*plugins.Change) error { return errRefused }

// specOf writes a scorer that always returns the given score to a file, and returns a spec of the file.
func specOf(t *testing.T, score float64) plugins.Spec {
	path := filepath.Join(t.TempDir(), "module.wasm")
	require.NoError(t, os.WriteFile(path, w.Scorer(w.Scores(score)...).Bytes(), 0o600))
	return plugins.Spec{Path: path}
}

// If plugins are changed while a reload is checked, the reload is checked again with these plugins. The change is not
// lost.
func TestAChangeDuringTheCheckOfAReload(t *testing.T) {
	opts := plugins.Options{Log: slog.New(slog.DiscardHandler), CacheDir: t.TempDir()}
	code := w.Scorer(w.Scores(3)...).Bytes()
	both := map[string]plugins.Spec{"mine": specOf(t, 1), "other": specOf(t, 1)}
	for name, c := range map[string]struct {
		meanwhile func(r *plugins.Registry) error
		checks    int
		wantError error
		want      map[string]float64 // the scores at the end; a plugin that is missing has none
	}{
		"nothing": {func(*plugins.Registry) error { return nil }, 1, nil, map[string]float64{"mine": 2, "up": 4}},
		"a new upload": {func(r *plugins.Registry) error {
			_, err := r.Put("new", code, nil, false)
			return err
		}, 2, nil, map[string]float64{"mine": 2, "up": 4, "new": 3}},
		"an upload of the same name": {func(r *plugins.Registry) error {
			_, err := r.Put("mine", code, nil, false)
			return err
		}, 2, nil, map[string]float64{"mine": 2, "up": 4}},
		"a replaced upload": {func(r *plugins.Registry) error {
			_, err := r.Put("up", code, nil, true)
			return err
		}, 2, nil, map[string]float64{"mine": 2, "up": 3}},
		"a deletion of a plugin that the check needs": {func(r *plugins.Registry) error {
			return r.Delete("up", unused)
		}, 2, core.ErrNotFound, nil},
		"another reload": {func(r *plugins.Registry) error { return r.Apply(both, nil) }, 2, nil,
			map[string]float64{"mine": 2, "up": 4}},
		"another reload that is refused": {func(r *plugins.Registry) error {
			require.ErrorIs(t, r.Apply(both, refuse), errRefused)
			return nil
		}, 1, nil, map[string]float64{"mine": 2, "up": 4}},
	} {
		t.Run(name, func(t *testing.T) {
			r := reopen(t, opts)
			_, err := r.Put("up", w.Scorer(w.Scores(4)...).Bytes(), nil, false)
			require.NoError(t, err)
			checks := 0
			err = r.Apply(map[string]plugins.Spec{"mine": specOf(t, 2)}, func(change *plugins.Change) error {
				checks++
				if checks == 1 {
					require.NoError(t, c.meanwhile(r))
				}
				if _, err := change.Scorer("up", ""); err != nil {
					return core.ErrNotFound
				}
				_, err := change.Scorer("mine", "")
				return err
			})
			require.ErrorIs(t, err, c.wantError)
			require.Equal(t, c.checks, checks)
			got := map[string]float64{}
			for _, i := range r.List() {
				if i.Source != plugins.SourceBuiltin {
					got[i.Name] = score(t, r, i.Name)[0]
				}
			}
			if c.want == nil {
				require.Empty(t, got)
				return
			}
			require.Equal(t, c.want, got)
		})
	}
}

// If plugins are changed while Delete asks how a plugin is used, Delete asks again.
func TestAChangeDuringADeletion(t *testing.T) {
	r := registry(t)
	code := w.Scorer(w.Scores(3)...).Bytes()
	_, err := r.Put("mine", code, nil, false)
	require.NoError(t, err)
	asked := 0
	err = r.Delete("mine", func(string) string {
		asked++
		if asked == 2 {
			return "first"
		}
		require.NoError(t, r.Apply(map[string]plugins.Spec{"other": specOf(t, 1)}, nil))
		return ""
	})
	require.ErrorContains(t, err, "in use as first")
	require.Equal(t, 2, asked)
	require.NoError(t, r.Delete("mine", unused))
}
