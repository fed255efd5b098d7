package changes_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/changes"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/state"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// fastFS omits syncs, because they take long. It fails on demand.
type fastFS struct {
	state.OS
	full  bool
	syncs int
}

type fastFile struct {
	state.File
	fs *fastFS
}

func (f *fastFS) Open(name string, flag int, perm fs.FileMode) (state.File, error) {
	if f.full && flag&os.O_CREATE != 0 {
		return nil, errFull
	}
	file, err := f.OS.Open(name, flag, perm)
	return fastFile{file, f}, err
}

func (f *fastFS) SyncDir(string) error { return nil }

func (f fastFile) Sync() error {
	f.fs.syncs++
	if f.fs.full {
		return errFull
	}
	return nil
}

var errFull = errors.New("no space left on device")

// engine is an engine with the plugins a, b and fixed.
type engine struct{ first, retry, judge string }

func (e *engine) Scorers() (first, retry string) { return e.first, e.retry }
func (e *engine) Judge() string                  { return e.judge }
func (e *engine) HasBackoff(name string) bool    { return name != "gone" }

func (e *engine) Activate(first, retrying string) error {
	for _, p := range []struct {
		name string
		to   *string
	}{{first, &e.first}, {retrying, &e.retry}} {
		if p.name == "gone" {
			return core.ErrNotFound
		}
		if p.name != "" {
			*p.to = p.name
		}
	}
	return nil
}

func (e *engine) ActivateJudge(name string) error {
	e.judge = name
	return nil
}

// rig is a gateway with a state folder.
type rig struct {
	t        require.TestingT
	file     string
	fs       *fastFS
	config   changes.Configuration
	log      bytes.Buffer
	engine   *engine
	pool     *upstream.Pool
	policies *retry.Store
	*changes.Changes
	store *state.Store
	ids   *state.Store
	now   time.Time
}

func newRig(t require.TestingT, dir string) *rig {
	return &rig{t: t, file: dir, fs: &fastFS{}, now: time.Unix(1e9, 0), config: changes.Configuration{
		Policy:  retry.DefaultPolicy(),
		Plugins: map[string]string{changes.UseFirst: "a", changes.UseRetry: "a", changes.UseJudge: "none"},
	}}
}

// start starts a process.
func (r *rig) start() {
	if r.store != nil {
		r.store.Close()
		r.ids.Close()
	}
	var err error
	r.store, _, err = state.OpenStore(r.fs, r.file, "changes", time.Now)
	require.NoError(r.t, err)
	r.ids, _, err = state.OpenStore(r.fs, r.file, "ids", time.Now)
	require.NoError(r.t, err)
	r.Changes = changes.New(changes.Options{
		Records: r.store, IDs: r.ids, Now: func() time.Time { return r.now },
		Log: slog.New(slog.NewTextHandler(&r.log, nil)),
	})
	r.engine = &engine{"a", "a", "none"}
	r.pool = upstream.NewPool(upstream.PoolConfig{Breaker: breaker.Default(), Now: time.Now})
	r.policies = retry.NewStore(r.config.Policy, time.Now)
	r.reload()
	r.Attach(changes.Parts{Engine: r.engine, Pool: r.pool, Policies: r.policies})
}

// reload loads the configuration.
func (r *rig) reload() {
	config := r.config
	config.Proxies = slices.Clone(config.Proxies)
	require.NoError(r.t, r.Configure(config, func(proxies []upstream.Spec) error {
		r.policies.ReloadFile(r.config.Policy, r.engine.HasBackoff)
		return r.pool.Apply(proxies)
	}))
}

func proxy(id string, weight float64) upstream.Spec {
	a, err := upstream.ParseAddress("http://user:pass@" + id + ".test:1")
	if err != nil {
		panic(err)
	}
	return upstream.Spec{ID: id, Address: a, Weight: weight, Source: "config"}
}

func added(id string, weight float64) upstream.Spec {
	s := proxy(id, weight)
	s.Source = upstream.SourceAPI
	return s
}

func weight(w float64) func(*upstream.Spec) error {
	return func(s *upstream.Spec) error {
		s.Weight = w
		return nil
	}
}

// specs returns the configurations of the proxies in the pool that are not being removed.
func (r *rig) specs() (list []upstream.Spec) {
	for _, u := range r.pool.Snapshot().All {
		if !u.Draining() {
			list = append(list, *u.Spec())
		}
	}
	return list
}

// weights returns the weights of all proxies by id.
func (r *rig) weights() map[string]float64 {
	out := map[string]float64{}
	for _, s := range r.specs() {
		out[s.ID] = s.Weight
	}
	return out
}

// kept is a recorded change in the model.
type kept struct {
	base    float64 // weight in the configuration at the time of the change; 0 for an added proxy
	removed bool
	weight  float64
}

// before is a proxy of the model in its state before its removal.
type before struct {
	weight   float64
	added    bool // by the API
	record   kept
	recorded bool
}

// After any sequence of changes, reloads, restarts and full disks, the pool is as documented.
func TestThePoolMatchesItsChanges(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "changes")))
		r := newRig(t, dir)
		file := map[string]float64{}                             // the configuration
		inForce := map[string]float64{}                          // the configuration of the last reload
		records, live := map[string]kept{}, map[string]float64{} // recorded changes, and the pool
		api := map[string]bool{}                                 // proxies of the pool that were added
		gone := map[string]before{}                              // removed proxies
		edit := func() {
			r.config.Proxies = nil
			for _, id := range []string{"p", "q", "r"} {
				if w := rapid.SampledFrom([]float64{0, 1, 1, 2}).Draw(t, id); w > 0 {
					file[id] = w
					r.config.Proxies = append(r.config.Proxies, proxy(id, w))
				} else {
					delete(file, id)
				}
			}
		}
		load := func(start bool) {
			next := map[string]float64{}
			for id, w := range file {
				k, ok := records[id]
				switch {
				case ok && k.base != w:
					delete(records, id)
				case ok && k.removed:
					continue
				case ok:
					w = k.weight
				}
				next[id] = w
			}
			configured := maps.Clone(next)
			for id, w := range live {
				if _, taken := configured[id]; api[id] && !start && !taken {
					next[id] = w
				}
			}
			for id, k := range records {
				if _, taken := configured[id]; start && k.base == 0 && !taken {
					next[id] = k.weight
				}
			}
			for id := range next {
				_, isConfigured := configured[id]
				api[id] = !isConfigured
			}
			live, inForce = next, maps.Clone(file)
		}
		edit()
		r.start()
		load(true)
		var list []changes.Record // at the last check
		var version uint64        // then; 0 after a restart
		id := func() string { return rapid.SampledFrom([]string{"p", "q", "r", "s", "t"}).Draw(t, "id") }
		keep := func() bool { return rapid.SampledFrom([]bool{true, true, false}).Draw(t, "keep") }
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				id, keep := id(), keep()
				_, err := r.AddProxies([]upstream.Spec{added(id, 5)}, keep)
				if _, there := live[id]; there {
					require.ErrorIs(t, err, core.ErrConflict)
					return
				}
				require.NoError(t, err)
				live[id], api[id] = 5, true
				if keep {
					records[id] = kept{base: inForce[id], weight: 5}
				}
			},
			"change": func(t *rapid.T) {
				id, keep, w := id(), keep(), float64(rapid.IntRange(6, 9).Draw(t, "weight"))
				_, err := r.ChangeProxy(id, weight(w), keep)
				if _, there := live[id]; !there {
					require.ErrorIs(t, err, core.ErrNotFound)
					return
				}
				require.NoError(t, err)
				live[id] = w
				k, recorded := records[id]
				if keep && (inForce[id] > 0 || recorded && k.base == 0) {
					records[id] = kept{base: inForce[id], weight: w}
				}
			},
			"remove": func(t *rapid.T) {
				id, keep := id(), keep()
				err := r.RemoveProxy(id, rapid.Bool().Draw(t, "drain"), keep)
				if _, there := live[id]; !there {
					require.ErrorIs(t, err, core.ErrNotFound)
					return
				}
				require.NoError(t, err)
				record, recorded := records[id]
				gone[id] = before{live[id], api[id], record, recorded}
				delete(live, id)
				delete(api, id)
				if keep && inForce[id] > 0 {
					records[id] = kept{base: inForce[id], removed: true}
				} else if keep {
					delete(records, id)
				}
			},
			"restore": func(t *rapid.T) {
				id, keep := id(), keep()
				_, err := r.RestoreProxy(id, keep)
				b, removed := gone[id]
				_, there := live[id]
				if !removed {
					require.ErrorIs(t, err, core.ErrNotFound)
					return
				}
				if there {
					require.ErrorIs(t, err, core.ErrConflict)
					return
				}
				require.NoError(t, err)
				delete(gone, id)
				live[id], api[id] = b.weight, b.added
				if keep && b.recorded {
					records[id] = b.record
				} else if keep {
					delete(records, id)
				}
			},
			"a full disk": func(t *rapid.T) {
				r.fs.full = true
				id := id()
				_, err := r.AddProxies([]upstream.Spec{added(id, 5)}, true)
				require.Error(t, err)
				_, recorded := records[id]
				if _, there := live[id]; there && (recorded || inForce[id] > 0) {
					require.ErrorIs(t, r.RemoveProxy(id, false, true), errFull)
				}
				if _, there := live[id]; there && (inForce[id] > 0 || recorded && records[id].base == 0) {
					_, err = r.ChangeProxy(id, weight(7), true)
					require.ErrorIs(t, err, errFull)
				}
				r.fs.full = false
			},
			"reload":             func(*rapid.T) { edit(); r.reload(); load(false) },
			"reload of the same": func(*rapid.T) { r.reload(); load(false) },
			"restart":            func(*rapid.T) { r.start(); load(true); clear(gone); version = 0 },
			"": func(t *rapid.T) {
				require.Equal(t, live, r.weights())
				before, versionBefore, ok := list, version, false
				list, ok = r.RecordedChanges()
				require.True(t, ok)
				if version = r.RecordsVersion(); version == versionBefore {
					require.Equal(t, before, list)
				}
				require.Len(t, list, len(records))
				for _, record := range list {
					k := records[record.Key[len("proxy/"):]]
					require.Equal(t, k.removed, record.Change == "removed", record.Key)
					require.Equal(t, k.base == 0, record.Change == "added", record.Key)
				}
			},
		})
	})
}

// The policy that the API has set outlives restarts until [retry] of the configuration changes. Fields that
// were set with persist=false do not outlive a restart.
func TestThePolicyOutlivesARestart(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.start()
	put := func(o retry.Override, keep bool) {
		_, err := r.ChangePolicy(o, keep)
		require.NoError(t, err)
	}
	number := func(n int) *int { return &n }
	yes, timeout := true, 7.0
	fixed, gone := "fixed", "gone"
	put(retry.Override{MaxAttempts: number(5), BackoffStrategy: &fixed}, true)
	put(retry.Override{Jitter: &yes}, false)
	o := retry.Override{Hedge: &retry.Hedge{P95: true}}
	o.Timeout.Set, o.Timeout.Value = true, &timeout
	put(o, true)
	_, err := r.ChangePolicy(retry.Override{BackoffStrategy: &gone}, true)
	require.Error(t, err)
	want := *r.policies.Current()
	require.True(t, want.Jitter)
	want.Jitter = false
	r.start()
	got := *r.policies.Current()
	require.NoError(t, want.Validate(r.engine.HasBackoff))
	require.True(t, want.Equal(&got), "%+v %+v", want, got)
	require.Equal(t, retry.SourceRuntime, r.policies.View().Source)

	r.config.Policy.MaxAttempts = 2
	require.NoError(t, r.config.Policy.Validate(r.engine.HasBackoff))
	r.reload()
	require.Equal(t, 2, r.policies.Current().MaxAttempts)
	require.Contains(t, r.log.String(), "changes=[policy]")
	r.config.Policy = retry.DefaultPolicy()
	r.start()
	require.Equal(t, 3, r.policies.Current().MaxAttempts, "a change that was superseded does not come back")

	put(retry.Override{MaxAttempts: number(4)}, true)
	put(retry.Override{MaxAttempts: number(3)}, true)
	list, _ := r.RecordedChanges()
	require.Empty(t, list, "the policy is that of the configuration")
	r.fs.full = true
	_, err = r.ChangePolicy(retry.Override{MaxAttempts: number(6)}, true)
	var notKept *changes.NotRecordedError
	require.ErrorAs(t, err, &notKept)
	require.Equal(t, 3, r.policies.Current().MaxAttempts)
}

func TestResetOfThePolicy(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.start()
	four := 4
	_, err := r.ChangePolicy(retry.Override{MaxAttempts: &four}, true)
	require.NoError(t, err)
	view, err := r.ResetPolicy(false)
	require.NoError(t, err)
	require.Equal(t, retry.SourceFile, view.Source)
	require.Equal(t, 3, r.policies.Current().MaxAttempts)
	r.start()
	require.Equal(t, 4, r.policies.Current().MaxAttempts, "the record has stayed")
	_, err = r.ResetPolicy(true)
	require.NoError(t, err)
	r.start()
	require.Equal(t, 3, r.policies.Current().MaxAttempts)
}

// A recorded backoff whose plugin does not exist any more is replaced by the configured one. The other
// fields of the recorded policy apply.
func TestARecordedBackoffIsGone(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.start()
	four := 4
	_, err := r.ChangePolicy(retry.Override{MaxAttempts: &four}, true)
	require.NoError(t, err)
	record, _ := r.store.Get("policy")
	text := bytes.Replace(record.Value, []byte(`"backoff_strategy":"exponential","base_delay":1,"multiplier":2,`+
		`"max_backoff_delay":30,"jitter":false,"retry_status_codes":[502,503,504],"timeout":null,`+
		`"retry_non_idempotent":false,"failover_delay":null,"hedge":"off","hedge_budget":0.05}}`),
		[]byte(`"backoff_strategy":"gone"}}`), 1)
	require.NotEqual(t, string(record.Value), string(text))
	require.NoError(t, r.store.Write(map[string]any{"policy": rawJSON(text)}))
	r.start()
	require.Equal(t, 4, r.policies.Current().MaxAttempts)
	require.Equal(t, "exponential", r.policies.Current().BackoffStrategy)
	require.Contains(t, r.log.String(), "not in use again after the restart")
}

type rawJSON []byte

func (r rawJSON) MarshalJSON() ([]byte, error) { return r, nil }

// A plugin that the API has activated is in use after a restart, until the configuration names another one.
func TestActivationsOutliveARestart(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.start()
	uses := func() string { return fmt.Sprint(r.engine.first, r.engine.retry, r.engine.judge) }
	require.NoError(t, r.Activate(changes.UseFirst, "b", true))
	require.NoError(t, r.Activate(changes.UseRetry, "b", false))
	require.NoError(t, r.Activate(changes.UseJudge, "j", true))
	require.Error(t, r.Activate(changes.UseFirst, "gone", true))
	require.NoError(t, r.Activate(changes.UseBackoff, "fixed", true))
	require.Equal(t, "bbj", uses())
	r.start()
	require.Equal(t, "baj", uses())
	require.Equal(t, "fixed", r.policies.Current().BackoffStrategy)
	require.NoError(t, r.Activate(changes.UseJudge, "none", true))
	r.config.Plugins[changes.UseFirst] = "c"
	r.reload()
	r.config.Plugins[changes.UseFirst] = "a"
	r.start()
	require.Equal(t, "aanone", uses())
	r.fs.full = true
	require.ErrorIs(t, r.Activate(changes.UseFirst, "b", true), errFull)
	require.Equal(t, "aanone", uses())
}

// Proxies of the configuration without an id get the same ids as before, and no id of an added proxy.
func TestAutomaticIDs(t *testing.T) {
	at := func(user, id string) upstream.Spec {
		a := upstream.Address{Scheme: upstream.HTTP, Host: "h:1", Username: user}
		return upstream.Spec{ID: id, Address: a, Weight: 1}
	}
	r := newRig(t, t.TempDir())
	r.start()
	api := at("api", "")
	api.Source = upstream.SourceAPI
	_, err := r.AddProxies([]upstream.Spec{api}, true)
	require.NoError(t, err)
	r.config.Proxies = []upstream.Spec{at("x", ""), at("y", "")}
	for range 2 {
		r.start()
		require.Equal(t, map[string]float64{"h:1": 1, "h:1-2": 1, "h:1-3": 1}, r.weights())
		require.Equal(t, "api", r.pool.Snapshot().Get("h:1").Spec().Address.Username)
		_, err = r.ChangeProxy("h:1-3", weight(4), true)
		require.NoError(t, err)
		r.reload()
		require.Equal(t, 4.0, r.weights()["h:1-3"])
		require.NoError(t, r.RemoveProxy("h:1-2", false, true))
		r.reload()
		require.NotContains(t, r.weights(), "h:1-2")
		require.NoError(t, r.DeleteRecord("proxy/h:1-2"))
		require.NoError(t, r.DeleteRecord("proxy/h:1-3"))
	}
	require.ErrorIs(t, r.DeleteRecord("proxy/h:1-3"), core.ErrNotFound)
	require.NoError(t, r.DeleteRecord(""))
	r.start()
	require.Equal(t, map[string]float64{"h:1-2": 1, "h:1-3": 1}, r.weights(), "the added one is forgotten")
}

// newRigWithoutAStore returns a started rig whose changes have no store.
func newRigWithoutAStore(t *testing.T) *rig {
	r := newRig(t, "")
	r.Changes = changes.New(changes.Options{Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	r.engine = &engine{"a", "a", "none"}
	r.pool = upstream.NewPool(upstream.PoolConfig{Breaker: breaker.Default(), Now: time.Now})
	r.policies = retry.NewStore(r.config.Policy, time.Now)
	r.reload()
	r.Attach(changes.Parts{Engine: r.engine, Pool: r.pool, Policies: r.policies})
	return r
}

// Without a store all changes are made, and none outlives a restart.
func TestWithoutAStore(t *testing.T) {
	r := newRigWithoutAStore(t)
	_, err := r.AddProxies([]upstream.Spec{added("s", 1)}, true)
	require.NoError(t, err)
	_, err = r.ChangeProxy("s", weight(2), true)
	require.NoError(t, err)
	require.NoError(t, r.RemoveProxy("s", true, true))
	require.NoError(t, r.Activate(changes.UseFirst, "b", true))
	_, ok := r.RecordedChanges()
	require.False(t, ok)
	require.ErrorIs(t, r.DeleteRecord(""), core.ErrNotFound)
}

// A record that this version cannot use is skipped, and the log names it.
func TestInvalidRecordsAreSkipped(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.start()
	require.NoError(t, r.store.Write(map[string]any{
		"proxy/x": map[string]any{"scheme": "http", "host": "h:1", "weight": -1}, "proxy/y": 1, "policy": "?",
		"other": 1, "plugin/first": []int{1},
	}))
	r.start()
	require.Empty(t, r.weights())
	require.Contains(t, r.log.String(), "change=proxy/x")
	require.Contains(t, r.log.String(), "change=proxy/y")
	list, _ := r.RecordedChanges()
	require.Len(t, list, 5)
}

// Proxies of another gateway are added or changed. One that is refused does not affect the others.
func TestPutProxies(t *testing.T) {
	r := newRigWithoutAStore(t)
	_, err := r.AddProxies([]upstream.Spec{added("old", 1)}, false)
	require.NoError(t, err)
	put := func(id string, w float64) changes.ProxyPut {
		s := added(id, w)
		value, err := changes.ProxyValue(&s)
		require.NoError(t, err)
		return changes.ProxyPut{ID: id, SharedChange: changes.SharedChange{Value: value}}
	}
	wrong := func(id, value string) changes.ProxyPut {
		return changes.ProxyPut{ID: id, SharedChange: changes.SharedChange{Value: []byte(value)}}
	}
	errs := r.PutProxies([]changes.ProxyPut{
		put("new", 2), put("old", 3), wrong("bad", `{"weight":1}`), wrong("worse", "x"), put("twice", 4),
		put("twice", 5),
	}, false)
	require.Error(t, errs[2])
	require.Error(t, errs[3])
	require.Equal(t, []error{nil, nil, nil, nil}, []error{errs[0], errs[1], errs[4], errs[5]})
	require.Equal(t, map[string]float64{"new": 2, "old": 3, "twice": 5}, r.weights())
	require.Equal(t, "pass", r.pool.Snapshot().Get("new").Spec().Address.Password.Reveal())
	require.Empty(t, r.PutProxies(nil, false))
}

// After a restart, the gateway gets all proxies from the store of the cluster. A proxy that is in force already costs
// nothing. The proxies that have changed in the meantime are changed together, with one write.
func TestPutsAfterARestart(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.config.Proxies = []upstream.Spec{proxy("p", 1), proxy("q", 1)}
	r.start()
	var puts []changes.ProxyPut
	put := func(id string, w float64) changes.ProxyPut {
		s := added(id, w)
		value, err := changes.ProxyValue(&s)
		require.NoError(t, err)
		return changes.ProxyPut{ID: id, SharedChange: changes.SharedChange{
			Value: value, Entry: r.Entry(id), Fields: []string{"weight"},
		}}
	}
	for i := range 100 {
		puts = append(puts, put(fmt.Sprint("x", i), 2))
	}
	puts = append(puts, put("p", 3), put("q", 1))
	costs := func(keep bool) []uint64 {
		syncs, changed := r.fs.syncs, r.pool.Changes()
		for _, err := range r.PutProxies(puts, keep) {
			require.NoError(t, err)
		}
		return []uint64{uint64(r.fs.syncs - syncs), r.pool.Changes() - changed}
	}
	require.Equal(t, []uint64{2, 2}, costs(true), "proxies are added and changed")
	r.start()
	require.Equal(t, []uint64{0, 0}, costs(true))
	for i := range 50 {
		puts[i] = put(fmt.Sprint("x", i), 4)
	}
	require.Equal(t, []uint64{0, 1}, costs(false))
	require.Equal(t, []uint64{1, 1}, costs(true), "they are not recorded yet")
	r.start()
	require.Equal(t, []uint64{0, 0}, costs(true))
	require.Equal(t, []float64{4, 2, 3, 1}, []float64{r.weights()["x0"], r.weights()["x50"], r.weights()["p"],
		r.weights()["q"]})

	puts[0], puts[1] = put("x0", 5), put("x1", 5)
	r.fs.full = true
	for i, err := range r.PutProxies(puts, true) {
		require.Equal(t, i < 2, errors.Is(err, errFull))
	}
	require.Equal(t, []float64{4, 4}, []float64{r.weights()["x0"], r.weights()["x1"]})
}
