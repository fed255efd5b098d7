package plugins_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/state"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// After a restart, an uploaded module gets the same settings as before.
func TestSettingsSurviveARestart(t *testing.T) {
	// The score of the first candidate is the length of the setting's text.
	m := w.Scorer(w.Join([]byte{w.LocalGet, 2}, w.Const32(0), []byte{w.F64Load, 3, 8, w.F64Store, 3, 0})...)
	m.Add(w.Func{Export: "configure", Params: []byte{w.I32, w.I32}, Results: []byte{w.I32}, Code: w.Join(
		// f64.convert_i32_s of value_length
		w.Const32(0), []byte{w.LocalGet, 0, 0x28, 2, 12, 0xb7, w.F64Store, 3, 8}, w.Const32(0))})
	opts := plugins.Options{Log: slog.New(slog.DiscardHandler), StateDir: t.TempDir()}
	for text, length := range map[string]float64{"20": 2, "20.0": 2, "1000000": 7, "1e6": 5, "9007199254740993": 16,
		`"20.0"`: 4, "[1,2.50]": 5} {
		config, err := strict.ParseJSON([]byte(`{"n":` + text + `}`))
		require.NoError(t, err)
		r, err := plugins.New(opts)
		require.NoError(t, err)
		_, err = r.Put("mine", m.Bytes(), config.(map[string]any), false)
		require.NoError(t, err)
		require.Equal(t, length, score(t, r, "mine")[0], text)
		r.Close()

		r, err = plugins.New(opts)
		require.NoError(t, err)
		require.Equal(t, length, score(t, r, "mine")[0], "%s after a restart", text)
		require.NoError(t, r.Delete("mine", func(string) string { return "" }))
		r.Close()
	}
}

// The files of an earlier build, which wrote two files for each upload, are not read. A log record
// states this.
func TestUploadsOfAnEarlierBuild(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "plugins"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "plugins", "mine.wasm"), builtin.Modules()["random"], 0o600))
	var log bytes.Buffer
	r, err := plugins.New(plugins.Options{
		Limits: patient(), Log: slog.New(slog.NewTextHandler(&log, nil)), StateDir: dir,
	})
	require.NoError(t, err)
	defer r.Close()
	require.Contains(t, log.String(), "plugins/mine.wasm")
	_, err = r.Get("mine")
	require.ErrorIs(t, err, core.ErrNotFound)
}

// If the file system refuses to write or remove a file, nothing changes and no incomplete file stays.
func TestADiskThatFails(t *testing.T) {
	// the name is not a pattern
	opts := plugins.Options{Log: slog.New(slog.DiscardHandler), StateDir: filepath.Join(t.TempDir(), "a[b]")}
	dir := filepath.Join(opts.StateDir, "plugins")
	inTheWay := func(name string) { require.NoError(t, os.MkdirAll(filepath.Join(dir, name+".upload", "x"), 0o700)) }
	mine, code := w.Scorer(w.Scores(4)...).Bytes(), builtin.Modules()["random"]
	r := reopen(t, opts)
	inTheWay("large")
	_, err := r.Put("large", code, nil, false)
	require.Error(t, err)
	_, err = r.Get("large")
	require.ErrorIs(t, err, core.ErrNotFound)
	_, err = r.Put("mine", mine, nil, false)
	require.NoError(t, err)
	file := filepath.Join(dir, "mine.upload")
	kept, err := os.ReadFile(file)
	require.NoError(t, err)

	require.NoError(t, os.Remove(file))
	inTheWay("mine")
	require.Error(t, r.Delete("mine", func(string) string { return "" }))
	_, err = r.Put("mine", code, nil, true)
	require.Error(t, err)
	require.Equal(t, 4.0, score(t, r, "mine")[0], "it stays")
	there, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, there, 2, "%v", there)

	require.NoError(t, os.RemoveAll(file))
	require.NoError(t, os.WriteFile(file, kept, 0o600))
	half := filepath.Join(dir, "half.upload.new") // a file of a process that was killed
	require.NoError(t, os.WriteFile(half, kept[:50], 0o600))
	r.Close()
	r = reopen(t, opts)
	require.Equal(t, 4.0, score(t, r, "mine")[0], "after a restart")
	require.NoFileExists(t, half)
	require.NoError(t, r.Delete("mine", func(string) string { return "" }))
	require.NoFileExists(t, file)
}

// The number of uploads is limited, so that uploads do not fill the memory and the disk.
func TestUploadsAreCounted(t *testing.T) {
	r := registry(t)
	code := builtin.Modules()["random"]
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		_, err = r.Put(fmt.Sprintf("p%d", n), code, nil, false)
	}
	require.ErrorIs(t, err, core.ErrConflict)
	require.EqualError(t, err, "100 plugins are uploaded; delete one first")
	require.Equal(t, 101, n)
	_, err = r.Put("p7", code, nil, true)
	require.NoError(t, err, "a new build of one")
	require.NoError(t, r.Delete("p7", func(string) string { return "" }))
	_, err = r.Put("another", code, nil, false)
	require.NoError(t, err)
	_, err = r.Put("another", code, nil, false)
	require.EqualError(t, err, `plugin "another" exists; PUT replaces it`)
}

func reopen(t *testing.T, opts plugins.Options) *plugins.Registry {
	r, err := plugins.New(opts)
	require.NoError(t, err)
	t.Cleanup(r.Close)
	return r
}

// An upload that cannot be loaded any more keeps its name. The built-in is called instead. The log and the
// plugin's state explain what to do. If a good module replaces the upload, callers that already hold the
// plugin use it.
func TestAnUploadThatNoLongerLoads(t *testing.T) {
	scorer := w.Scorer(w.Scores(4)...).Bytes()
	for name, damage := range map[string]struct {
		cause, settings string
		module          []byte
	}{
		"cut":         {"not a module of WebAssembly 2.0", "null\n", scorer[:60]},
		"no module":   {"not a module of WebAssembly 2.0", "null\n", nil},
		"empty":       {"mine.upload: its first line", "", nil},
		"another ABI": {"version 7 of the ABI", "{}\n", bytes.Replace(scorer, []byte("abi_v1"), []byte("abi_v7"), 1)},
		"settings":    {"mine.upload: its first line", `{"a`, nil},
		"no settings": {"mine.upload: its first line", "", scorer},
	} {
		t.Run(name, func(t *testing.T) {
			log := &entries{counts: map[slog.Level]int{}}
			opts := plugins.Options{Log: slog.New(log), StateDir: t.TempDir()}
			r := reopen(t, opts)
			_, err := r.Put("mine", scorer, nil, false)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(opts.StateDir, "plugins", "mine.upload"),
				append([]byte(damage.settings), damage.module...), 0o600))
			log.take()

			r = reopen(t, opts)
			_, errors := log.take()
			require.Equal(t, 1, errors)
			require.Equal(t, "mine", log.last["plugin"])
			i, err := r.Get("mine")
			require.NoError(t, err)
			require.Equal(t, []string{plugins.StateFailed, plugins.SourceAPI}, []string{i.State, i.Source})
			for _, said := range []string{i.LastError, log.last["error"]} {
				require.Contains(t, said, damage.cause)
				require.Contains(t, said, "PUT /api/v1/plugins/mine")
			}
			require.InDeltaSlice(t, []float64{1, 0.65}, score(t, r, "mine"), 1e-9, "performance answers")
			b, err := r.Backoff("mine")
			require.NoError(t, err, "nobody can tell what it was")
			d, err := b.Delay(&core.BackoffRequest{Retry: 2, BaseDelay: 1, Multiplier: 3, Cap: 30})
			require.NoError(t, err)
			require.Equal(t, 3.0, d, "exponential answers")
			held, err := r.Scorer("mine", plugins.FallbackRetry)
			require.NoError(t, err)
			fallback, err := r.Scorer(plugins.FallbackRetry, "")
			require.NoError(t, err)
			require.Equal(t, fallback.(core.Tolerance).Tolerance(), held.(core.Tolerance).Tolerance())

			i, err = r.Put("mine", scorer, nil, true)
			require.NoError(t, err)
			require.Equal(t, plugins.StateReady, i.State)
			require.Empty(t, i.LastError)
			require.False(t, i.CanRollBack, "to what never served")
			scores := make([]float64, 1)
			require.NoError(t, held.Score(rows{{}}, scores))
			require.Equal(t, []float64{4}, scores)
			require.Equal(t, []float64{4, 4}, score(t, reopen(t, opts), "mine"))
		})
	}
}

// The module that replaces such an upload may have another kind. A caller that holds the plugin as a scorer
// then continues to use the built-in.
func TestAnUploadThatNoLongerLoadsBecomesABackoff(t *testing.T) {
	opts := plugins.Options{Log: slog.New(slog.DiscardHandler), StateDir: t.TempDir()}
	require.NoError(t, os.MkdirAll(filepath.Join(opts.StateDir, "plugins"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(opts.StateDir, "plugins", "mine.upload"), []byte("?"), 0o600))
	r := reopen(t, opts)
	held, err := r.Scorer("mine", plugins.FallbackRetry)
	require.NoError(t, err)
	_, err = r.Put("mine", scriptedBackoff(5), nil, true)
	require.NoError(t, err)
	b, err := r.Backoff("mine")
	require.NoError(t, err)
	d, err := b.Delay(&core.BackoffRequest{Retry: 1, BaseDelay: 1, Multiplier: 2, Cap: 30})
	require.NoError(t, err)
	require.Equal(t, 5.0, d)
	scores := make([]float64, 2)
	require.NoError(t, held.Score(rows{{SuccessRate: 1, Weight: 1, InFlight: 5}, {SuccessRate: 0.5, Weight: 1}},
		scores))
	require.InDeltaSlice(t, []float64{1, 0.65}, scores, 1e-9)
	_, err = r.Scorer("mine", "")
	require.ErrorContains(t, err, `there is no scorer named "mine"`)

	require.NoError(t, r.Delete("mine", func(string) string { return "" }))
	require.NoError(t, os.WriteFile(filepath.Join(opts.StateDir, "plugins", "mine.upload"), []byte("?"), 0o600))
	r = reopen(t, opts)
	require.NoError(t, r.Delete("mine", func(string) string { return "" }),
		"one that does not load is deleted as any other")
	_, err = reopen(t, opts).Get("mine")
	require.ErrorIs(t, err, core.ErrNotFound)
}

// [plugins.NAME] hides an upload with the same name. When the table is removed, the upload is used again, at
// once and after a restart. The log reports both.
func TestAnUploadHiddenByTheConfiguration(t *testing.T) {
	log := &entries{counts: map[slog.Level]int{}}
	opts := plugins.Options{Log: slog.New(log), StateDir: t.TempDir()}
	r := reopen(t, opts)
	_, err := r.Put("mine", w.Scorer(w.Scores(1)...).Bytes(), nil, false)
	require.NoError(t, err)
	held, err := r.Scorer("mine", "")
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "mine.wasm")
	table := map[string]plugins.Spec{"mine": {Path: path}}
	file := func(score float64) {
		require.NoError(t, os.WriteFile(path, w.Scorer(w.Scores(score)...).Bytes(), 0o600))
	}
	reload := func(specs map[string]plugins.Spec) { require.NoError(t, r.Apply(specs, nil)) }
	told := func(msg string) {
		t.Helper()
		warnings, errors := log.take()
		require.Equal(t, []int{1, 0}, []int{warnings, errors})
		require.Equal(t, []string{msg, "mine"}, []string{log.last["msg"], log.last["plugin"]})
	}
	silent := func() {
		t.Helper()
		warnings, errors := log.take()
		require.Zero(t, warnings+errors)
	}
	is := func(source string, hides bool, score float64) {
		t.Helper()
		i, err := r.Get("mine")
		require.NoError(t, err)
		require.Equal(t, []any{source, hides, false}, []any{i.Source, i.HidesUpload, i.CanRollBack})
		scores := make([]float64, 1)
		require.NoError(t, held.Score(rows{{}}, scores))
		require.Equal(t, []float64{score}, scores)
	}
	const hidden, back = "[plugins.NAME] of the configuration takes the place of the upload of that " +
		"name", "[plugins.NAME] is gone from the configuration: the upload of that name serves again"

	file(2)
	require.ErrorIs(t, r.Apply(table, refuse), errRefused)
	silent()
	is(plugins.SourceAPI, false, 1)
	reload(table)
	told(hidden)
	is(plugins.SourceConfig, true, 2)
	reload(table)
	file(3)
	reload(table)
	silent()
	is(plugins.SourceConfig, true, 3)
	for _, replace := range []bool{false, true} {
		_, err = r.Put("mine", w.Scorer(w.Scores(4)...).Bytes(), nil, replace)
		require.EqualError(t, err, `plugin "mine" comes from the configuration, and is changed there`)
	}
	reload(nil)
	told(back)
	is(plugins.SourceAPI, false, 1)
	_, err = r.RollBack("mine")
	require.ErrorIs(t, err, core.ErrConflict, "to a module of the configuration")

	r = reopen(t, opts)
	held, err = r.Scorer("mine", "")
	require.NoError(t, err)
	require.NoError(t, r.ApplyAtStart(table))
	told(hidden)
	is(plugins.SourceConfig, true, 3)
	inUse := func(string) string { return "first" }
	require.NoError(t, r.Delete("mine", inUse), "what is in use is not what goes")
	is(plugins.SourceConfig, false, 3)
	require.ErrorIs(t, r.Delete("mine", inUse), core.ErrConflict)
	reload(nil)
	silent()
	_, err = r.Get("mine")
	require.ErrorIs(t, err, core.ErrNotFound)
	_, err = reopen(t, opts).Get("mine")
	require.ErrorIs(t, err, core.ErrNotFound)
}

// slowly opens a registry. The returned function during calls what, a function that compiles a module. When the
// compilation has begun, during calls the function meanwhile.
func slowly(t *testing.T) (r *plugins.Registry, during func(what, meanwhile func())) {
	asked, goOn := make(chan struct{}), make(chan struct{})
	var slow atomic.Bool // set while a version is made, during which the clock is read
	r = reopen(t, plugins.Options{Log: slog.New(slog.DiscardHandler), StateDir: t.TempDir(), Now: func() time.Time {
		if slow.Swap(false) {
			asked <- struct{}{}
			<-goOn
		}
		return time.Now()
	}})
	return r, func(what, meanwhile func()) {
		slow.Store(true)
		done := make(chan struct{})
		go func() {
			defer close(done)
			what()
		}()
		<-asked
		meanwhile()
		goOn <- struct{}{}
		<-done
	}
}

// While an upload is being compiled, only the next upload waits. Changes that are made during the compilation stay.
func TestNoRequestWaitsForAnUpload(t *testing.T) {
	r, during := slowly(t)
	code := builtin.Modules()
	put := func(name, module string, replace bool) error {
		_, err := r.Put(name, code[module], nil, replace)
		return err
	}
	rollBack := func() error {
		_, err := r.RollBack("mine")
		return err
	}
	remove := func(name string) { require.NoError(t, r.Delete(name, func(string) string { return "" })) }
	path := filepath.Join(t.TempDir(), "mine.wasm")
	require.NoError(t, os.WriteFile(path, code["weighted"], 0o600))
	reload := func(specs map[string]plugins.Spec) { require.NoError(t, r.Apply(specs, nil)) }
	for _, c := range []struct {
		name      string
		what      func() error
		meanwhile func()
		want      string
	}{
		{"nothing of it", func() error { return put("mine", "random", true) }, func() { remove("other") }, ""},
		{"a new one", func() error { return put("new", "random", false) }, func() { reload(nil) }, ""},
		{"replaced, deleted", func() error { return put("mine", "random", true) }, func() { remove("mine") },
			`plugin "mine" not found`},
		{"rolled back, deleted", rollBack, func() { remove("mine") }, `plugin "mine" not found`},
		{"replaced, configured", func() error { return put("mine", "random", true) },
			func() { reload(map[string]plugins.Spec{"mine": {Path: path}}) }, `plugin "mine" comes from the ` +
				`configuration, and is changed there`},
		{"rolled back, configured", rollBack, func() { reload(map[string]plugins.Spec{"mine": {Path: path}}) },
			`plugin "mine" has no earlier upload to go back to`},
		{"new, configured", func() error { return put("late", "random", false) },
			func() { reload(map[string]plugins.Spec{"late": {Path: path}}) }, `plugin "late" comes from the ` +
				`configuration, and is changed there`},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.NoError(t, put("other", "random", false))
			require.NoError(t, put("mine", "performance", false))
			require.NoError(t, put("mine", "cost_aware", true))
			var err error
			during(func() { err = c.what() }, c.meanwhile)
			if c.want == "" {
				require.NoError(t, err)
			} else {
				require.EqualError(t, err, c.want)
			}
			reload(nil)
			for _, i := range r.List() {
				if i.Source != plugins.SourceBuiltin {
					remove(i.Name)
				}
			}
		})
	}
}

// While a reload compiles modules, only the next reload waits. Changes that are made during the compilation stay.
func TestNoRequestWaitsForAReload(t *testing.T) {
	r, during := slowly(t)
	code := builtin.Modules()
	path := filepath.Join(t.TempDir(), "mine.wasm")
	require.NoError(t, os.WriteFile(path, code["weighted"], 0o600))
	with, without := map[string]plugins.Spec{"mine": {Path: path}}, map[string]plugins.Spec{}
	put := func(name string, replace bool) {
		_, err := r.Put(name, code["random"], nil, replace)
		require.NoError(t, err)
	}
	remove := func(name string) { require.NoError(t, r.Delete(name, func(string) string { return "" })) }
	reload := func(specs map[string]plugins.Spec, commit bool) {
		if commit {
			require.NoError(t, r.Apply(specs, nil))
		} else {
			require.ErrorIs(t, r.Apply(specs, refuse), errRefused)
		}
	}
	const none, upload, table, both = "", "api", "config", "config, hides an upload"
	is := func() string {
		i, err := r.Get("mine")
		switch {
		case err != nil:
			return none
		case i.HidesUpload:
			return i.Source + ", hides an upload"
		}
		return i.Source
	}
	for _, c := range []struct {
		name      string
		before    string
		specs     map[string]plugins.Spec
		meanwhile func()
		commit    bool
		want      string
	}{
		{"another goes", none, with, func() { remove("other") }, true, table},
		{"another is replaced", none, with, func() { put("other", true) }, true, table},
		{"uploaded", none, with, func() { put("mine", false) }, true, both},
		{"uploaded, and it comes to nothing", none, with, func() { put("mine", false) }, false, upload},
		{"replaced", upload, with, func() { put("mine", true) }, true, both},
		{"deleted", upload, with, func() { remove("mine") }, true, table},
		{"what was hidden is deleted", both, without, func() { remove("mine") }, true, none},
		{"what was hidden is deleted, and it comes to nothing", both, without, func() { remove("mine") }, false, table},
		{"what was hidden stays", both, without, func() { remove("other") }, true, upload},
	} {
		t.Run(c.name, func(t *testing.T) {
			put("other", false)
			if c.before == upload || c.before == both {
				put("mine", false)
			}
			if c.before == both {
				reload(with, true)
			}
			require.Equal(t, c.before, is())
			during(func() { reload(c.specs, c.commit) }, c.meanwhile)
			require.Equal(t, c.want, is())
			reload(nil, true)
			for _, i := range r.List() {
				if i.Source != plugins.SourceBuiltin {
					remove(i.Name)
				}
			}
			require.Equal(t, none, is())
		})
	}
}

// After FreezeUploads nothing is written to the folder, and a module that could not be written is not used.
func TestAFrozenRegistry(t *testing.T) {
	r, err := plugins.New(plugins.Options{
		Limits: patient(), Log: slog.New(slog.DiscardHandler), StateDir: t.TempDir(),
	})
	require.NoError(t, err)
	defer r.Close()
	_, err = r.Put("mine", scriptedBackoff(1), nil, false)
	require.NoError(t, err)
	r.FreezeUploads()
	_, err = r.Put("other", scriptedBackoff(1), nil, false)
	require.ErrorIs(t, err, state.ErrClosed)
	_, err = r.Get("other")
	require.ErrorIs(t, err, core.ErrNotFound)
	require.ErrorIs(t, r.Delete("mine", func(string) string { return "" }), state.ErrClosed)
	_, err = r.Get("mine")
	require.NoError(t, err)
}
