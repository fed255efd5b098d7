//go:build !race

// The model runs in one goroutine, where the race detector is useless. With it, the test took 13 minutes beside a
// load of 25, longer than the time limit of go test. TestEverythingAtOnce is for the detector.

package plugins_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// made is a module with the result of its calls.
type made struct {
	kind   wasmhost.Kind
	answer float64
}

func (m made) code() []byte {
	if m.kind == wasmhost.Backoff {
		return w.Backoff(w.ConstF64(m.answer)...).Bytes()
	}
	return w.Scorer(w.Scores(m.answer)...).Bytes()
}

// named is the expected state of a name. The module of the table is used if there is one, otherwise the upload. The
// field before is the module that a roll-back restores.
type named struct{ table, upload, before *made }

// Uploads, replacements, roll-backs, deletions, reloads and restarts happen in any order. Some uploads happen during
// the check of a reload. For each name, the expected module is called and shown, and the expected operations are
// refused.
func TestUploadsAgainstAModel(t *testing.T) {
	cache := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "uploads")
		require.NoError(t, err)
		defer os.RemoveAll(dir)
		open := func() *plugins.Registry {
			r, err := plugins.New(plugins.Options{
				Limits: patient(), Log: slog.New(slog.DiscardHandler), CacheDir: cache, StateDir: dir,
			})
			require.NoError(t, err)
			return r
		}
		r := open()
		defer func() { r.Close() }()
		names := map[string]*named{"a": {}, "b": {}}
		name := rapid.SampledFrom([]string{"a", "b"})
		module := rapid.Custom(func(t *rapid.T) *made {
			return &made{rapid.SampledFrom([]wasmhost.Kind{wasmhost.Scorer, wasmhost.Backoff}).Draw(t, "kind"),
				float64(rapid.IntRange(1, 3).Draw(t, "answer"))}
		})
		specs := func(tables map[string]*made) map[string]plugins.Spec {
			specs := map[string]plugins.Spec{}
			for name, m := range tables {
				if m != nil {
					specs[name] = plugins.Spec{Path: filepath.Join(dir, name+".wasm")}
					require.NoError(t, os.WriteFile(specs[name].Path, m.code(), 0o600))
				}
			}
			return specs
		}
		uploads := map[string]func(*rapid.T) error{
			"put": func(t *rapid.T) error {
				name, m, replace := name.Draw(t, "name"), module.Draw(t, "module"), rapid.Bool().Draw(t, "replace")
				n := names[name]
				_, err := r.Put(name, m.code(), nil, replace)
				var bad *wasmhost.CheckError
				switch {
				case n.table != nil, n.upload != nil && !replace:
					require.ErrorIs(t, err, core.ErrConflict)
				case n.upload == nil && replace:
					require.ErrorIs(t, err, core.ErrNotFound)
				case n.upload != nil && n.upload.kind != m.kind:
					require.ErrorAs(t, err, &bad)
				default:
					require.NoError(t, err)
					n.upload, n.before = m, n.upload
				}
				return err
			},
			"roll back": func(t *rapid.T) error {
				name := name.Draw(t, "name")
				n := names[name]
				_, err := r.RollBack(name)
				switch {
				case n.table == nil && n.upload == nil:
					require.ErrorIs(t, err, core.ErrNotFound)
				case n.before == nil:
					require.ErrorIs(t, err, core.ErrConflict)
				default:
					require.NoError(t, err)
					n.upload, n.before = n.before, n.upload
				}
				return err
			},
			"delete": func(t *rapid.T) error {
				name, use := name.Draw(t, "name"), rapid.SampledFrom([]string{"", "first"}).Draw(t, "in use as")
				n := names[name]
				err := r.Delete(name, func(string) string { return use })
				switch {
				case n.table == nil && n.upload == nil:
					require.ErrorIs(t, err, core.ErrNotFound)
				case n.table != nil && n.upload != nil:
					require.NoError(t, err)
					n.upload = nil
				case n.table != nil, use != "":
					require.ErrorIs(t, err, core.ErrConflict)
				default:
					require.NoError(t, err)
					*n = named{}
				}
				return err
			},
		}
		operation := rapid.SampledFrom([]string{"put", "roll back", "delete"})
		t.Repeat(map[string]func(*rapid.T){
			"upload": func(t *rapid.T) { _ = uploads[operation.Draw(t, "operation")](t) },
			"reload": func(t *rapid.T) {
				tables := map[string]*made{}
				for _, name := range []string{"a", "b"} {
					if rapid.Bool().Draw(t, "table") {
						tables[name] = module.Draw(t, "module")
					}
				}
				refused, meanwhile := rapid.Bool().Draw(t, "refused"), rapid.Bool().Draw(t, "meanwhile")
				checks, want := 0, 1
				err := r.Apply(specs(tables), func(c *plugins.Change) error {
					checks++
					if meanwhile && checks == 1 && uploads[operation.Draw(t, "operation")](t) == nil {
						want++
					}
					if refused {
						return errRefused
					}
					return nil
				})
				if refused {
					require.ErrorIs(t, err, errRefused)
					return
				}
				require.NoError(t, err)
				require.Equal(t, want, checks)
				for name, n := range names {
					if n.table = tables[name]; n.table != nil {
						n.before = nil
					}
				}
			},
			"restart": func(t *rapid.T) {
				r.Close()
				r = open()
				tables := map[string]*made{}
				for name, n := range names {
					tables[name], n.before = n.table, nil
				}
				require.NoError(t, r.ApplyAtStart(specs(tables)))
			},
			"": func(t *rapid.T) {
				for name, n := range names {
					require.NoError(t, serves(r, name, n), name)
				}
			},
		})
	})
}

// serves returns an error if a name differs from its expected state.
func serves(r *plugins.Registry, name string, n *named) error {
	want, source := n.table, plugins.SourceConfig
	if want == nil {
		want, source = n.upload, plugins.SourceAPI
	}
	i, err := r.Get(name)
	if want == nil {
		if !errors.Is(err, core.ErrNotFound) {
			return fmt.Errorf("it is there: %v", err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	hides, back := n.table != nil && n.upload != nil, n.table == nil && n.before != nil
	if i.Source != source || i.Kind != want.kind || i.HidesUpload != hides || i.CanRollBack != back ||
		i.State != plugins.StateReady {
		return fmt.Errorf("%+v is shown; it should be %+v of %s, hides an upload: %v, can roll back: %v", i, want,
			source, hides, back)
	}
	var answer float64
	s, errS := r.Scorer(name, plugins.FallbackRetry)
	b, errB := r.Backoff(name)
	switch want.kind {
	case wasmhost.Scorer:
		scores := make([]float64, 1)
		if err = errS; err == nil {
			err = s.Score(rows{{}}, scores)
		}
		if errB == nil {
			return errors.New("it is found as a backoff, too")
		}
		answer = scores[0]
	case wasmhost.Backoff:
		if err = errB; err == nil {
			answer, err = b.Delay(&core.BackoffRequest{Retry: 1, BaseDelay: 9, Multiplier: 2, Cap: 30})
		}
		if errS == nil {
			return errors.New("it is found as a scorer, too")
		}
	}
	if err == nil && answer != want.answer {
		err = fmt.Errorf("it answers %v, not %v", answer, want.answer)
	}
	return err
}
