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
	moduleFor     = 24 * time.Hour   // time for which the store keeps a module that no node has
	keepModules   = time.Minute      // time between two checks that the store has the modules of this node
	moduleTimeout = 10 * time.Second // longest time of sending or fetching a module
	firstTry      = time.Second      // time until a module is fetched or deleted again after an error; it doubles
	longestTry    = 30 * time.Second
	spreadModules = 20 * time.Millisecond // for each node; see keep
)

// sharedUpload is the record of an upload. The store has the module as a blob with the name SHA256, before it has the
// record.
type sharedUpload struct {
	SHA256 string          `json:"sha256"` // of the module, in hexadecimal
	Size   int             `json:"size"`   // of the module, in bytes
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
	Take(name string, code []byte, config map[string]any, keep bool, inUse func(name string) string) error
	Discard(name string, inUse func(name string) string) error
	Holds(name, sum string, config map[string]any, keep bool) bool
	Code(name, sum string) ([]byte, error)
	Get(name string) (plugins.Info, error)
}

// sharedUploads makes the uploads of all nodes on this node, in the background, because a module takes long to fetch
// and to compile. An activation waits until the plugin is there. A nil *sharedUploads has no uploads.
type sharedUploads struct {
	cn       *clusterNode
	registry registry
	inUse    func(plugin string) string
	wake     chan struct{} // has an element if there is something to do

	mu      sync.Mutex // guards the fields below
	wanted  map[string]*wantedUpload
	waiting map[string]activation // by the key of the change
	missing bool                  // the store may lack a module of this node

	epoch   string    // of the store when keep last ran; used by run only, like the fields below
	kept    time.Time // when keep last ran
	problem string    // error of the last keep; "" for none
}

// activation is the use of a plugin that is not there yet.
type activation struct {
	use, plugin string
	keep        bool
}

// wantedUpload is what the cluster wants a plugin to be.
type wantedUpload struct {
	sharedUpload
	keep, removed bool
	code          []byte // nil if it is to be fetched
	state         string // cluster.UploadReady and so on
	problem       string
	tries         int
	next          time.Time // of the next try; zero for no further one
}

func newSharedUploads(cn *clusterNode, reg registry, inUse func(string) string) *sharedUploads {
	return &sharedUploads{
		cn: cn, registry: reg, inUse: inUse, wake: make(chan struct{}, 1), wanted: map[string]*wantedUpload{},
		waiting: map[string]activation{},
	}
}

// uploaded shares an upload or a deletion that the API has made on this node (plugins.Options.Uploaded).
func (cn *clusterNode) uploaded(name string, code []byte, config map[string]any, keep bool) {
	if cn == nil || cn.uploads == nil {
		return
	}
	w := wantedUpload{keep: keep, removed: code == nil, code: code}
	if code != nil {
		sum := sha256.Sum256(code)
		w.sharedUpload = sharedUpload{SHA256: hex.EncodeToString(sum[:]), Size: len(code)}
		if config != nil {
			w.Config, _ = json.Marshal(config) // it comes from JSON
		}
		cn.uploads.write(w.SHA256, code)
	}
	c := sharedChange{Keep: keep, Removed: w.removed}
	ttl := time.Duration(removedFor)
	if !w.removed {
		c.Upload, ttl = &w.sharedUpload, 0
	}
	do := func() (string, error) {
		own := w
		cn.uploads.want(name, &own)
		return cn.encode(c)
	}
	ctx, cancel := context.WithTimeout(context.Background(), shareTime)
	defer cancel()
	cn.node.Change(ctx, func() ([]cluster.Change, error) {
		value, err := do()
		return []cluster.Change{{Key: sharedModule + name, Value: value, TTL: ttl, Redo: do}}, err
	})
}

// write writes a module to the store, if the store can be reached and does not have it. Otherwise keep does so later.
func (u *sharedUploads) write(sum string, code []byte) {
	if alone, _ := u.cn.node.Alone(); alone {
		u.setMissing(true)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), moduleTimeout)
	defer cancel()
	held, err := u.cn.blobs.KeepBlob(ctx, sum, moduleFor)
	if err == nil && !held {
		err = u.cn.blobs.WriteBlob(ctx, sum, code, moduleFor)
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
	u.missing = missing
}

// want sets what a plugin is to be.
func (u *sharedUploads) want(name string, w *wantedUpload) {
	w.state, w.next = cluster.UploadWaiting, time.Now()
	u.mu.Lock()
	u.wanted[name] = w
	u.mu.Unlock()
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// received takes over the record of an upload or a deletion.
func (u *sharedUploads) received(name string, c *sharedChange) error {
	if u == nil || c.Upload == nil && !c.Removed {
		return errors.New("this version makes no such changes")
	}
	w := &wantedUpload{keep: c.Keep, removed: c.Removed}
	if !c.Removed {
		w.sharedUpload = *c.Upload
	}
	u.want(name, w)
	return nil
}

// later makes an activation wait if its plugin is not there yet. It reports whether the activation waits.
func (u *sharedUploads) later(key, use, plugin string, keep bool) bool {
	if u == nil {
		return false
	}
	_, err := u.registry.Get(plugin)
	u.mu.Lock()
	defer u.mu.Unlock()
	w := u.wanted[plugin]
	if err == nil && (w == nil || w.removed || w.state != cluster.UploadWaiting) {
		return false
	}
	u.waiting[key] = activation{use, plugin, keep}
	u.cn.log.Info("an activation waits for its plugin", slog.String("for", use), slog.String("plugin", plugin))
	return true
}

// withoutBackoff returns the JSON of a policy without the backoff if its plugin is not there yet. The backoff is then
// activated later.
func (u *sharedUploads) withoutBackoff(policy json.RawMessage, keep bool) json.RawMessage {
	const field = "backoff_strategy"
	var fields map[string]json.RawMessage
	var name string
	if json.Unmarshal(policy, &fields) != nil || json.Unmarshal(fields[field], &name) != nil ||
		!u.later(sharedPolicy, changes.UseBackoff, name, keep) {
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
	return u.waiting[sharedPolicy].plugin
}

// forget drops an activation that waits, because there is a later change of the same key.
func (u *sharedUploads) forget(key string) {
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.waiting, key)
}

// run makes what is wanted until ctx ends.
func (u *sharedUploads) run(ctx context.Context) {
	tick := time.NewTicker(firstTry / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.wake:
		case <-tick.C:
		}
		u.step(ctx, time.Now())
	}
}

// step makes what is wanted and due at the time now.
func (u *sharedUploads) step(ctx context.Context, now time.Time) {
	u.mu.Lock()
	var due []string
	for name, w := range u.wanted {
		if w.state != cluster.UploadReady && !w.next.IsZero() && !now.Before(w.next) {
			due = append(due, name)
		}
	}
	u.mu.Unlock()
	slices.Sort(due)
	for _, name := range due {
		u.make(ctx, name)
	}
	u.keep(ctx, now)
}

// make makes one plugin what it is wanted to be, and the activations that wait for it.
func (u *sharedUploads) make(ctx context.Context, name string) {
	u.mu.Lock()
	w := u.wanted[name]
	u.mu.Unlock()
	err := u.try(ctx, name, w)
	u.mu.Lock()
	if u.wanted[name] != w { // wanted differently by now
		u.mu.Unlock()
		return
	}
	if err == nil {
		w.state, w.problem, w.code = cluster.UploadReady, "", nil
		if w.removed {
			delete(u.wanted, name)
		}
		u.mu.Unlock()
		u.cn.node.BetweenChanges(func() { u.activate(name) })
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
	w.state, w.next = cluster.UploadFailed, time.Now().Add(min(firstTry<<min(w.tries, 10), longestTry))
	w.tries++
	var bad *wasmhost.CheckError
	var fetch *fetchError
	switch {
	case errors.As(err, &fetch):
		w.state = cluster.UploadWaiting
	case errors.As(err, &bad):
		w.next = time.Time{}
	}
}

// fetchError reports that a module is not there yet.
type fetchError struct{ error }

func (e *fetchError) Unwrap() error { return e.error }

func (u *sharedUploads) try(ctx context.Context, name string, w *wantedUpload) error {
	if w.removed {
		err := u.registry.Discard(name, u.inUse)
		if errors.Is(err, core.ErrNotFound) {
			err = nil
		}
		return err
	}
	config, err := w.config()
	if err != nil {
		return &wasmhost.CheckError{Msg: "its settings cannot be read: " + err.Error()}
	}
	if u.registry.Holds(name, w.SHA256, config, w.keep) {
		return nil
	}
	code := w.code
	if code == nil {
		code, err = u.registry.Code(name, w.SHA256) // only the settings have changed
	}
	if err != nil {
		if code, err = u.fetch(ctx, &w.sharedUpload); err != nil {
			return err
		}
	}
	return u.registry.Take(name, code, config, w.keep, u.inUse)
}

// fetch reads a module from the store.
func (u *sharedUploads) fetch(ctx context.Context, want *sharedUpload) ([]byte, error) {
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

// activate makes the activations that wait for a plugin. No other changes are made meanwhile.
func (u *sharedUploads) activate(plugin string) {
	u.mu.Lock()
	var due []activation
	for _, key := range slices.Sorted(maps.Keys(u.waiting)) {
		if a := u.waiting[key]; a.plugin == plugin {
			due = append(due, a)
			delete(u.waiting, key)
		}
	}
	u.mu.Unlock()
	for _, a := range due {
		attrs := []any{slog.String("for", a.use), slog.String("plugin", plugin)}
		if err := u.cn.changes.Activate(a.use, plugin, a.keep); err != nil {
			u.cn.log.Warn("an activation of another gateway cannot be made here",
				append(attrs, slog.Any("error", err))...)
			continue
		}
		u.cn.log.Info("an activation of another gateway is in force", attrs...)
	}
}

// keep makes the store have the modules of this node: every keepModules, and at once after the store has lost data or
// an error. After a loss it first waits for a random time, so that not all nodes write the same module.
func (u *sharedUploads) keep(ctx context.Context, now time.Time) {
	epoch := u.cn.node.Epoch()
	alone, _ := u.cn.node.Alone()
	u.mu.Lock()
	missing := u.missing
	u.mu.Unlock()
	if since := now.Sub(u.kept); alone || epoch == u.epoch && since < keepModules && !(missing && since >= firstTry) {
		return
	}
	if u.epoch != "" && u.epoch != epoch {
		spread := time.Duration(u.cn.node.Live()-1) * spreadModules
		select {
		case <-time.After(time.Duration(rand.Float64() * float64(spread))):
		case <-ctx.Done():
			return
		}
	}
	u.epoch, u.kept = epoch, now
	u.mu.Lock()
	u.missing = false
	modules := map[string]string{} // the name of a plugin by its module
	for name, w := range u.wanted {
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
	held, err := u.cn.blobs.KeepBlob(ctx, sum, moduleFor)
	if err != nil || held {
		return err
	}
	code, err := u.registry.Code(name, sum)
	if err != nil { // replaced or deleted by now
		return nil
	}
	return u.cn.blobs.WriteBlob(ctx, sum, code, moduleFor)
}

// status returns the shared uploads, sorted by name.
func (u *sharedUploads) status() (out []cluster.UploadStatus) {
	if u == nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(u.wanted)) {
		w := u.wanted[name]
		out = append(out, cluster.UploadStatus{Name: name, SHA256: w.SHA256, Size: w.Size, Deleted: w.removed,
			State: w.state, Problem: w.problem})
	}
	return out
}

// failed returns the number of shared uploads that this node cannot have.
func (u *sharedUploads) failed() (n int) {
	for _, s := range u.status() {
		if s.State == cluster.UploadFailed {
			n++
		}
	}
	return n
}
