package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/changes"
	"github.com/whirlpool-proxy/whirlpool/core/cluster"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// uploader is a node with plugins. Its exchanges and its shared uploads are made by step only.
type uploader struct {
	sharedChanges
	t   *testing.T
	reg *plugins.Registry
}

func startUploader(t *testing.T, store *cluster.Memory, name string) *uploader {
	u := &uploader{t: t}
	var err error
	u.reg, err = plugins.New(plugins.Options{
		Log: slog.New(slog.DiscardHandler),
		OnUpload: func(name string, code []byte, config map[string]any, persist bool) {
			u.node.shareUpload(name, code, config, persist)
		},
	})
	require.NoError(t, err)
	t.Cleanup(u.reg.Close)
	u.sharedChanges = startNodeWith(t, store, name, u.reg)
	u.node.uploads = newSharedUploads(u.node, u.reg, func(plugin string) string {
		if first, _ := u.node.engine.Load().Scorers(); first == plugin {
			return "first"
		}
		return ""
	})
	return u
}

// step makes an exchange, and then the uploads and activations that are due, as if the time d had passed.
func (u *uploader) step(d time.Duration) {
	u.node.node.Step(u.t.Context())
	u.node.uploads.applyDue(u.t.Context(), time.Now().Add(d))
}

// sharing runs f, which makes changes at u, and makes steps until f has returned.
func (u *uploader) sharing(f func() error) {
	stepDuring(func() { require.NoError(u.t, f()) }, func() { u.step(0) })
}

func (u *uploader) put(name string, code []byte, replace bool) {
	config := map[string]any{"a": 1.5}
	if name == "slow" { // it takes no settings
		config = nil
	}
	u.sharing(func() error {
		_, err := u.reg.Put(name, code, config, replace)
		return err
	})
}

func (u *uploader) sum(name string) string {
	i, err := u.reg.Get(name)
	if err != nil {
		return ""
	}
	return i.SHA256
}

// uploadOf returns the state of a shared upload.
func (u *uploader) uploadOf(name string) cluster.UploadStatus {
	for _, s := range u.node.Status().Uploads {
		if s.Name == name {
			return s
		}
	}
	return cluster.UploadStatus{}
}

func scorerOf(score float64) []byte {
	m := wasmtest.Scorer(wasmtest.Scores(score)...)
	m.Add(wasmtest.Func{Export: "configure", Params: []byte{wasmtest.I32, wasmtest.I32},
		Results: []byte{wasmtest.I32}, Code: wasmtest.Const32(0)})
	return m.Bytes()
}

func sumOf(code []byte) string {
	sum := sha256.Sum256(code)
	return hex.EncodeToString(sum[:])
}

// Two nodes upload different modules under one name while they cannot reach the store. Afterwards both nodes have the
// same module.
func TestOneModuleWins(t *testing.T) {
	store := cluster.NewMemory(time.Now)
	a, b := startUploader(t, store, "a"), startUploader(t, store, "b")
	one, two, three := scorerOf(1), scorerOf(2), scorerOf(3)
	a.put("mine", one, false)
	for b.sum("mine") != sumOf(one) {
		b.step(0)
	}
	store.Fail(errors.New("cut"))
	a.node.node.Step(t.Context())
	b.node.node.Step(t.Context())
	a.put("mine", two, true)
	b.put("mine", three, true)
	require.Equal(t, []string{sumOf(two), sumOf(three)}, []string{a.sum("mine"), b.sum("mine")})
	store.Fail(nil)
	waiting := func() int { return a.node.node.Status().Waiting + b.node.node.Status().Waiting }
	for a.node.node.Status().Waiting > 0 {
		a.step(time.Hour)
	}
	for b.node.node.Status().Waiting > 0 { // b makes the change of a first, and its own on top
		b.step(time.Hour)
	}
	for range 3 {
		a.step(time.Hour)
		b.step(time.Hour)
	}
	require.Zero(t, waiting())
	require.Equal(t, []string{sumOf(three), sumOf(three)}, []string{a.sum("mine"), b.sum("mine")})
	require.Equal(t, cluster.UploadReady, a.uploadOf("mine").State)

	a.sharing(func() error { return a.reg.Delete("mine", func(string) string { return "" }) })
	for b.sum("mine") != "" {
		b.step(0)
	}
	require.Empty(t, b.node.Status().Uploads)
}

// An activation waits for its plugin. A later change of the same thing replaces the activation that waits, and a change
// of other fields of the policy keeps the backoff that waits.
func TestActivationsWaitForTheirPlugin(t *testing.T) {
	store := cluster.NewMemory(time.Now)
	a, b := startUploader(t, store, "a"), startUploader(t, store, "b")
	a.put("mine", scorerOf(1), false)
	a.put("slow", builtin.Modules()["fixed"], false)
	a.sharing(func() error { return a.Activate(changes.UseFirst, "mine", false) })
	a.sharing(func() error { return a.Activate(changes.UseRetry, "mine", false) })
	a.sharing(func() error { return a.Activate(changes.UseBackoff, "slow", false) })
	b.node.node.Step(t.Context()) // b has no plugins yet
	first, _ := b.node.engine.Load().Scorers()
	require.NotEqual(t, "mine", first)
	policy := func(u *uploader) *retry.Policy { return u.node.engine.Load().Policies().Current() }
	require.NotEqual(t, "slow", policy(b).BackoffStrategy)
	attempts := 7
	stepDuring(func() {
		require.NoError(t, b.Activate(changes.UseRetry, "random", false))
		_, err := b.ChangePolicy(retry.Override{MaxAttempts: &attempts}, false)
		require.NoError(t, err)
	}, func() { b.node.node.Step(t.Context()) })
	for range 3 {
		b.step(0)
		a.step(0)
	}
	for _, u := range []*uploader{a, b} {
		first, again := u.node.engine.Load().Scorers()
		require.Equal(t, []string{"mine", "random"}, []string{first, again})
		require.Equal(t, "slow", policy(u).BackoffStrategy)
		require.Equal(t, 7, policy(u).MaxAttempts)
	}
	require.Empty(t, b.node.uploads.activations)

	// A plugin that is in use on b is deleted there only after its use has ended.
	a.sharing(func() error { return a.reg.Delete("mine", func(string) string { return "" }) })
	b.step(0)
	require.Equal(t, cluster.UploadFailed, b.uploadOf("mine").State)
	require.Contains(t, b.uploadOf("mine").Problem, "in use as first")
	require.Equal(t, 1, b.node.uploads.failedCount())
	require.NoError(t, b.Changes.Activate(changes.UseFirst, "random", false))
	b.step(time.Hour)
	require.Len(t, b.node.Status().Uploads, 1)
	require.Empty(t, b.sum("mine"))
}

// A node fetches a module again later if the store lacks the module or has damaged data. It does not fetch an unusable
// module again.
func TestModulesThatCannotBeHad(t *testing.T) {
	store := cluster.NewMemory(time.Now)
	a, b := startUploader(t, store, "a"), startUploader(t, store, "b")
	one := scorerOf(1)
	a.put("mine", one, false)
	write := func(code string) {
		require.NoError(t, store.WriteBlob(t.Context(), sumOf(one), []byte(code), time.Hour))
	}
	write("x")
	b.step(0)
	require.Equal(t, cluster.UploadWaiting, b.uploadOf("mine").State)
	require.Contains(t, b.uploadOf("mine").Problem, "damaged")
	store.Clear()
	a.node.node.Step(t.Context())
	b.step(time.Hour)
	require.Equal(t, cluster.UploadWaiting, b.uploadOf("mine").State)
	require.Contains(t, b.uploadOf("mine").Problem, "the store does not have it")
	a.step(0) // writes the lost modules
	b.step(time.Hour)
	require.Equal(t, cluster.UploadReady, b.uploadOf("mine").State)
	require.Equal(t, sumOf(one), b.sum("mine"))

	shared := func(upload *sharedUpload) {
		b.node.uploads.applyRecord("bad", &sharedChange{Upload: upload})
		b.step(0)
	}
	write("?")
	shared(&sharedUpload{SHA256: "00", Size: 1 << 30})
	require.Contains(t, b.uploadOf("bad").Problem, "at most")
	require.NoError(t, store.WriteBlob(t.Context(), sumOf([]byte("?")), []byte("?"), time.Hour))
	shared(&sharedUpload{SHA256: sumOf([]byte("?")), Size: 1})
	require.Equal(t, cluster.UploadFailed, b.uploadOf("bad").State)
	require.True(t, b.node.uploads.uploads["bad"].nextAttempt.IsZero(), "it is not compiled again and again")
	require.Error(t, b.node.uploads.applyRecord("bad", &sharedChange{}))
	require.Equal(t, 1, b.node.metricsState().Uploads[cluster.UploadFailed])
}

// Uploads made while the store cannot be reached are written when it can be reached again.
func TestModulesAreWrittenLater(t *testing.T) {
	store := cluster.NewMemory(time.Now)
	a, b := startUploader(t, store, "a"), startUploader(t, store, "b")
	store.Fail(errors.New("cut"))
	a.node.node.Step(t.Context())
	b.node.node.Step(t.Context())
	a.put("mine", scorerOf(1), false)
	store.Fail(nil)
	for b.sum("mine") == "" {
		a.step(time.Hour)
		b.step(time.Hour)
	}
}
