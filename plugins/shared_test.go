package plugins_test

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

func unused(string) string { return "" }

// Uploads, rollbacks and deletions by the API are reported, modules of other gateways are not.
func TestSharedUploads(t *testing.T) {
	type report struct {
		name, code string
		keep       bool
	}
	var reports []report
	opts := plugins.Options{Log: slog.New(slog.DiscardHandler), StateDir: t.TempDir()}
	opts.OnUpload = func(name string, code []byte, config map[string]any, keep bool) {
		reports = append(reports, report{name, string(code), keep})
	}
	r := reopen(t, opts)
	one, two := w.Scorer(w.Scores(1)...).Bytes(), w.Scorer(w.Scores(2)...).Bytes()
	_, err := r.Put("mine", one, nil, false)
	require.NoError(t, err)
	_, err = r.Put("mine", two, nil, true)
	require.NoError(t, err)
	_, err = r.Put("mine", []byte("?"), nil, true)
	require.Error(t, err)
	_, err = r.RollBack("mine")
	require.NoError(t, err)
	require.NoError(t, r.Delete("mine", unused))
	require.Error(t, r.Delete("mine", unused))
	require.Equal(t, []report{{"mine", string(one), true}, {"mine", string(two), true}, {"mine", string(one), true},
		{"mine", "", true}}, reports)

	reports = nil
	require.NoError(t, r.InstallShared("mine", one, nil, true, unused))
	require.Equal(t, 1.0, score(t, r, "mine")[0])
	i, err := r.Get("mine")
	require.NoError(t, err)
	require.True(t, r.HasUpload("mine", i.SHA256, map[string]any{}, true))
	require.False(t, r.HasUpload("mine", i.SHA256, map[string]any{"a": 1}, true))
	require.False(t, r.HasUpload("mine", i.SHA256, nil, false))
	require.False(t, r.HasUpload("mine", "", nil, true))
	require.False(t, r.HasUpload("other", i.SHA256, nil, true))
	code, err := r.UploadCode("mine", i.SHA256)
	require.NoError(t, err)
	require.Equal(t, one, code)
	_, err = r.UploadCode("mine", "")
	require.ErrorIs(t, err, core.ErrNotFound)
	_, err = r.UploadCode("other", i.SHA256)
	require.ErrorIs(t, err, core.ErrNotFound)
	r.Close()
	r = reopen(t, opts)
	require.True(t, r.HasUpload("mine", i.SHA256, nil, true), "it survives a restart")

	// A module of another kind replaces a plugin that is not in use.
	backoff := builtin.Modules()["fixed"]
	err = r.InstallShared("mine", backoff, nil, false, func(string) string { return "first" })
	require.ErrorIs(t, err, core.ErrConflict)
	require.Equal(t, 1.0, score(t, r, "mine")[0])
	// A module that cannot be loaded leaves the old plugin, also in the folder.
	err = r.InstallShared("mine", backoff, map[string]any{"unknown": 1}, true, unused)
	require.Error(t, err)
	require.Equal(t, 1.0, score(t, r, "mine")[0])
	r.Close()
	r = reopen(t, opts)
	require.Equal(t, 1.0, score(t, r, "mine")[0])
	require.NoError(t, r.InstallShared("mine", backoff, nil, false, unused))
	i, err = r.Get("mine")
	require.NoError(t, err)
	require.Equal(t, wasmhost.Backoff, i.Kind)

	var bad *wasmhost.CheckError
	require.ErrorAs(t, r.InstallShared("mine", []byte("?"), nil, true, unused), &bad)
	require.ErrorAs(t, r.InstallShared("random", one, nil, true, unused), &bad)
	require.ErrorAs(t, r.InstallShared("traps", w.Scorer(w.Unreachable).Bytes(), nil, true, unused), &bad)
	require.ErrorIs(t, r.DeleteShared("mine", func(string) string { return "backoff" }), core.ErrConflict)
	require.NoError(t, r.DeleteShared("mine", unused))
	require.ErrorIs(t, r.DeleteShared("mine", unused), core.ErrNotFound)
	require.Empty(t, reports)
}
