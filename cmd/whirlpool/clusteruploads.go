package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/changes"
	"github.com/whirlpool-proxy/whirlpool/core/cluster"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// The times of shared uploads.
const (
	moduleTTL           = 24 * time.Hour   // time for which the store keeps a module that no node has
	moduleCheckInterval = time.Minute      // time between two checks that the store has the modules of this node
	moduleTimeout       = 10 * time.Second // longest time of sending or fetching a module
	firstRetryDelay     = time.Second      // wait after a first failed fetch or deletion; each failure doubles the wait
	maxRetryDelay       = 30 * time.Second
	moduleSpread        = 20 * time.Millisecond // time per node; see keepModulesInStore
)

// sharedUpload is the record of an upload. The module is a blob in the store, with the name SHA256. The blob is written
// before the record.
type sharedUpload struct {
	SHA256 string          `json:"sha256"` // the module's SHA-256 in hexadecimal
	Size   int             `json:"size"`   // the module's size in bytes
	Config json.RawMessage `json:"config,omitempty"`
}

// config returns the settings of the upload; nil for none.
func (u *sharedUpload) config() (map[string]any, error) {
	if len(u.Config) == 0 {
		return nil, nil
	}
	v, err := strict.ParseJSON(u.Config)
	object, _ := v.(map[string]any)
	return object, err
}

// registry is the part of plugins.Registry that sharedUploads uses.
type registry interface {
	InstallShared(name string, code []byte, config map[string]any, persist bool, inUse func(name string) string) error
	DeleteShared(name string, inUse func(name string) string) error
	HasUpload(name, sum string, config map[string]any, persist bool) bool
	UploadCode(name, sum string) ([]byte, error)
	Get(name string) (plugins.Info, error)
}

// sharedUploads repeats the uploads of all nodes on this node. It does so in the background, because fetching and
// compiling a module take long. An activation waits until its plugin is loaded. A nil *sharedUploads has no uploads.
type sharedUploads struct {
	cn       *clusterNode
	registry registry
	inUse    func(plugin string) string
	wake     chan struct{} // has an element if there is something to do

	mu             sync.Mutex // guards the fields below
	uploads        map[string]*wantedUpload
	activations    map[string]activation // the keys are those of the shared changes
	modulesMissing bool                  // the store may lack a module of this node

	epoch     string    // epoch of the store at lastCheck; only run uses this field and the next two
	lastCheck time.Time // time of the last check by keepModulesInStore
	problem   string    // error of the last check; "" for none
}

// activation is the activation of a plugin that this node does not have yet.
type activation struct {
	use, plugin string
	persist     bool
}

// wantedUpload is an uploaded plugin that this node should have or, if removed is set, should no longer have.
type wantedUpload struct {
	sharedUpload
	persist, removed bool
	code             []byte // nil if the module must be fetched
	state            string // a constant of package cluster, such as cluster.UploadReady
	problem          string
	failedAttempts   int
	nextAttempt      time.Time // zero if there is no next attempt
}

func newSharedUploads(cn *clusterNode, reg registry, inUse func(string) string) *sharedUploads {
	return &sharedUploads{
		cn: cn, registry: reg, inUse: inUse, wake: make(chan struct{}, 1), uploads: map[string]*wantedUpload{},
		activations: map[string]activation{},
	}
}

// shareUpload shares an upload or a deletion that the API has made on this node (plugins.Options.OnUpload).
func (cn *clusterNode) shareUpload(name string, code []byte, config map[string]any, persist bool) {
	if cn == nil || cn.uploads == nil {
		return
	}
	w := wantedUpload{persist: persist, removed: code == nil, code: code}
	if code != nil {
		sum := sha256.Sum256(code)
		w.sharedUpload = sharedUpload{SHA256: hex.EncodeToString(sum[:]), Size: len(code)}
		if config != nil {
			w.Config, _ = json.Marshal(config) // the error is always nil: config was decoded from JSON
		}
		cn.uploads.writeModule(w.SHA256, code)
	}
	c := sharedChange{Persist: persist, Removed: w.removed}
	ttl := time.Duration(removalTTL)
	if !w.removed {
		c.Upload, ttl = &w.sharedUpload, 0
	}
	record := func() (string, error) {
		own := w
		cn.uploads.setUpload(name, &own)
		return cn.encode(c)
	}
	ctx, cancel := context.WithTimeout(context.Background(), shareTimeout)
	defer cancel()
	cn.node.Change(ctx, func() ([]cluster.Change, error) {
		value, err := record()
		return []cluster.Change{{Key: sharedModule + name, Value: value, TTL: ttl, Redo: record}}, err
	})
}

// writeModule writes a module to the store if the store lacks it. If the store cannot be reached, keepModulesInStore
// writes the module later.
func (u *sharedUploads) writeModule(sum string, code []byte) {
	if alone, _ := u.cn.node.Alone(); alone {
		u.setMissing(true)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), moduleTimeout)
	defer cancel()
	isStored, err := u.cn.blobs.KeepBlob(ctx, sum, moduleTTL)
	if err == nil && !isStored {
		err = u.cn.blobs.WriteBlob(ctx, sum, code, moduleTTL)
	}
	if err != nil {
		u.setMissing(true)
		u.cn.log.Warn("a plugin's module cannot be written to the cluster's store: the other gateways get it later",
			slog.String("sha256", sum), slog.Any("error", err))
	}
}

func (u *sharedUploads) setMissing(missing bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.modulesMissing = missing
}

func (u *sharedUploads) setUpload(name string, w *wantedUpload) {
	w.state, w.nextAttempt = cluster.UploadWaiting, time.Now()
	u.mu.Lock()
	u.uploads[name] = w
	u.mu.Unlock()
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// applyRecord takes over the record of an upload or a deletion.
func (u *sharedUploads) applyRecord(name string, c *sharedChange) error {
	if u == nil || c.Upload == nil && !c.Removed {
		return errors.New("this version makes no such changes")
	}
	w := &wantedUpload{persist: c.Persist, removed: c.Removed}
	if !c.Removed {
		w.sharedUpload = *c.Upload
	}
	u.setUpload(name, w)
	return nil
}

// delayActivation makes an activation wait if its plugin is not loaded yet. It returns false if the activation need not
// wait.
func (u *sharedUploads) delayActivation(key, use, plugin string, persist bool) bool {
	if u == nil {
		return false
	}
	_, err := u.registry.Get(plugin)
	u.mu.Lock()
	defer u.mu.Unlock()
	w := u.uploads[plugin]
	if err == nil && (w == nil || w.removed || w.state != cluster.UploadWaiting) {
		return false
	}
	u.activations[key] = activation{use, plugin, persist}
	u.cn.log.Info("an activation waits for its plugin", slog.String("for", use), slog.String("plugin", plugin))
	return true
}

// withoutBackoff returns the JSON of a policy. If the plugin of the policy's backoff is not loaded yet, the JSON has
// no backoff. The backoff is activated when the plugin has been loaded.
func (u *sharedUploads) withoutBackoff(policy json.RawMessage, persist bool) json.RawMessage {
	const field = "backoff_strategy"
	var fields map[string]json.RawMessage
	var name string
	if json.Unmarshal(policy, &fields) != nil || json.Unmarshal(fields[field], &name) != nil ||
		!u.delayActivation(sharedPolicy, changes.UseBackoff, name, persist) {
		return policy
	}
	delete(fields, field)
	rest, err := json.Marshal(fields)
	if err != nil {
		return policy
	}
	return rest
}

// waitingBackoff returns the backoff that waits for its plugin; "" for none.
func (u *sharedUploads) waitingBackoff() string {
	if u == nil {
		return ""
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.activations[sharedPolicy].plugin
}

// dropActivation drops a waiting activation, because a later change has the same key.
func (u *sharedUploads) dropActivation(key string) {
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.activations, key)
}

// run makes the uploads, deletions and activations of plugins that are due, until ctx ends.
func (u *sharedUploads) run(ctx context.Context) {
	tick := time.NewTicker(firstRetryDelay / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.wake:
		case <-tick.C:
		}
		u.applyDue(ctx, time.Now())
	}
}

// applyDue makes the uploads and deletions that are due, and then calls keepModulesInStore.
func (u *sharedUploads) applyDue(ctx context.Context, now time.Time) {
	u.mu.Lock()
	var due []string
	for name, w := range u.uploads {
		if w.state != cluster.UploadReady && !w.nextAttempt.IsZero() && !now.Before(w.nextAttempt) {
			due = append(due, name)
		}
	}
	u.mu.Unlock()
	slices.Sort(due)
	for _, name := range due {
		u.applyUpload(ctx, name)
	}
	u.keepModulesInStore(ctx, now)
}

// applyUpload uploads or deletes one plugin. Then it makes the activations that wait for this plugin.
func (u *sharedUploads) applyUpload(ctx context.Context, name string) {
	u.mu.Lock()
	w := u.uploads[name]
	u.mu.Unlock()
	err := u.updateRegistry(ctx, name, w)
	u.mu.Lock()
	if u.uploads[name] != w { // a newer upload or deletion has replaced w
		u.mu.Unlock()
		return
	}
	if err == nil {
		w.state, w.problem, w.code = cluster.UploadReady, "", nil
		if w.removed {
			delete(u.uploads, name)
		}
		u.mu.Unlock()
		u.cn.node.BetweenChanges(func() { u.activateWaiting(name) })
		return
	}
	defer u.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	if msg := err.Error(); msg != w.problem {
		w.problem = msg
		u.cn.log.Warn("an uploaded plugin of the cluster is not in force here", slog.String("plugin", name),
			slog.String("sha256", w.SHA256), slog.Any("error", err))
	}
	w.state = cluster.UploadFailed
	w.nextAttempt = time.Now().Add(min(firstRetryDelay<<min(w.failedAttempts, 10), maxRetryDelay))
	w.failedAttempts++
	var bad *wasmhost.CheckError
	var fetch *fetchError
	switch {
	case errors.As(err, &fetch):
		w.state = cluster.UploadWaiting
	case errors.As(err, &bad):
		w.nextAttempt = time.Time{}
	}
}

// fetchError is the error of a module that cannot be fetched yet. The fetch is tried again.
type fetchError struct{ error }

func (e *fetchError) Unwrap() error { return e.error }

func (u *sharedUploads) updateRegistry(ctx context.Context, name string, w *wantedUpload) error {
	if w.removed {
		err := u.registry.DeleteShared(name, u.inUse)
		if errors.Is(err, core.ErrNotFound) {
			err = nil
		}
		return err
	}
	config, err := w.config()
	if err != nil {
		return &wasmhost.CheckError{Msg: "its settings cannot be read: " + err.Error()}
	}
	if u.registry.HasUpload(name, w.SHA256, config, w.persist) {
		return nil
	}
	code := w.code
	if code == nil {
		code, err = u.registry.UploadCode(name, w.SHA256) // succeeds if only the settings have changed
	}
	if err != nil {
		if code, err = u.fetchModule(ctx, &w.sharedUpload); err != nil {
			return err
		}
	}
	return u.registry.InstallShared(name, code, config, w.persist, u.inUse)
}

// fetchModule reads a module from the store.
func (u *sharedUploads) fetchModule(ctx context.Context, want *sharedUpload) ([]byte, error) {
	if limit := wasmhost.DefaultLimits().ModuleBytes; want.Size > limit {
		return nil, &wasmhost.CheckError{
			Msg: fmt.Sprintf("the module has %d bytes; at most %d are taken", want.Size, limit),
		}
	}
	ctx, cancel := context.WithTimeout(ctx, moduleTimeout)
	defer cancel()
	code, err := u.cn.blobs.ReadBlob(ctx, want.SHA256, want.Size)
	if err != nil {
		return nil, &fetchError{fmt.Errorf("its module cannot be fetched: %w", err)}
	}
	if sum := sha256.Sum256(code); hex.EncodeToString(sum[:]) != want.SHA256 {
		return nil, &fetchError{errors.New("the module in the cluster's store is damaged")}
	}
	return code, nil
}

// activateWaiting makes the activations that wait for a plugin. The caller must prevent other changes during the call.
func (u *sharedUploads) activateWaiting(plugin string) {
	u.mu.Lock()
	var due []activation
	for _, key := range slices.Sorted(maps.Keys(u.activations)) {
		if a := u.activations[key]; a.plugin == plugin {
			due = append(due, a)
			delete(u.activations, key)
		}
	}
	u.mu.Unlock()
	for _, a := range due {
		attrs := []any{slog.String("for", a.use), slog.String("plugin", plugin)}
		if err := u.cn.changes.Activate(a.use, plugin, a.persist); err != nil {
			u.cn.log.Warn("an activation of another gateway cannot be made here",
				append(attrs, slog.Any("error", err))...)
			continue
		}
		u.cn.log.Info("an activation of another gateway is in force", attrs...)
	}
}

// keepModulesInStore writes to the store each module of this node that the store lacks. It checks this at each
// moduleCheckInterval, soon after an error, and after the store has lost its data. In the last case, it first waits for
// a random time, because otherwise all nodes would write the same modules.
func (u *sharedUploads) keepModulesInStore(ctx context.Context, now time.Time) {
	epoch := u.cn.node.Epoch()
	alone, _ := u.cn.node.Alone()
	u.mu.Lock()
	missing := u.modulesMissing
	u.mu.Unlock()
	if since := now.Sub(u.lastCheck); alone || epoch == u.epoch && since < moduleCheckInterval && !(missing &&
		since >= firstRetryDelay) {
		return
	}
	if u.epoch != "" && u.epoch != epoch {
		spread := time.Duration(u.cn.node.Live()-1) * moduleSpread
		select {
		case <-time.After(time.Duration(rand.Float64() * float64(spread))):
		case <-ctx.Done():
			return
		}
	}
	u.epoch, u.lastCheck = epoch, now
	u.mu.Lock()
	u.modulesMissing = false
	modules := map[string]string{} // names of plugins by the names of their modules in the store
	for name, w := range u.uploads {
		if w.state == cluster.UploadReady && !w.removed {
			modules[w.SHA256] = name
		}
	}
	u.mu.Unlock()
	for _, sum := range slices.Sorted(maps.Keys(modules)) {
		if err := u.keepModule(ctx, modules[sum], sum); err != nil {
			if msg := err.Error(); msg != u.problem {
				u.problem = msg
				u.cn.log.Warn("a plugin's module cannot be written to the cluster's store; this is tried again",
					slog.String("plugin", modules[sum]), slog.Any("error", err))
			}
			u.setMissing(true)
			return
		}
	}
	u.problem = ""
}

func (u *sharedUploads) keepModule(ctx context.Context, name, sum string) error {
	ctx, cancel := context.WithTimeout(ctx, moduleTimeout)
	defer cancel()
	isStored, err := u.cn.blobs.KeepBlob(ctx, sum, moduleTTL)
	if err != nil || isStored {
		return err
	}
	code, err := u.registry.UploadCode(name, sum)
	if err != nil { // the plugin was replaced or deleted
		return nil
	}
	return u.cn.blobs.WriteBlob(ctx, sum, code, moduleTTL)
}

// status returns the shared uploads, sorted by name.
func (u *sharedUploads) status() (out []cluster.UploadStatus) {
	if u == nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(u.uploads)) {
		w := u.uploads[name]
		out = append(out, cluster.UploadStatus{Name: name, SHA256: w.SHA256, Size: w.Size, Deleted: w.removed,
			State: w.state, Problem: w.problem})
	}
	return out
}

// failedCount returns the number of shared uploads that failed on this node.
func (u *sharedUploads) failedCount() (n int) {
	for _, s := range u.status() {
		if s.State == cluster.UploadFailed {
			n++
		}
	}
	return n
}
