// Package changes makes the changes that the REST API asks for. It records them in a state.Store, so that they survive
// reloads and restarts.
//
// A record also has the configured value at the time of the change. For the policy and plugins this is the value
// itself. For a proxy it is a fingerprint of the proxy's entry in the configuration. If the configured value changes
// later, the new value is used and the record is deleted. A record stays while the configuration lacks its proxy,
// because a proxy list may omit a proxy for some time. A proxy without a configured id is found again by the
// fingerprint of its address.
package changes

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/state"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// The places where a plugin can be used, as the API names them.
const (
	UseFirst   = "first"
	UseRetry   = "retry"
	UseBackoff = "backoff"
	UseJudge   = "judge"
)

// Configuration is the part of the configuration that can be changed through the API.
type Configuration struct {
	Proxies []upstream.Spec
	Policy  retry.Policy
	Plugins map[string]string // name of the configured plugin by its use: UseFirst, UseRetry and UseJudge
	// Shared returns the change of a key (see Record) that all gateways of the cluster share; nil if there is none.
	// Such a change stays in force if the configured value changes. Without a cluster, the field Shared is nil.
	Shared func(key string) *SharedChange
}

func (c *Configuration) shared(key string) *SharedChange {
	if c.Shared == nil {
		return nil
	}
	return c.Shared(key)
}

// Engine has the methods of the engine that make changes.
type Engine interface {
	Scorers() (first, retry string)
	Activate(first, retry string) error
	Judge() string
	ActivateJudge(name string) error
	HasBackoff(name string) bool
}

// Pool is the pool of proxies.
type Pool interface {
	Snapshot() *upstream.Snapshot
	Add(specs []upstream.Spec) ([]*upstream.Upstream, error)
	UpdateAll(changes upstream.Updates) error
	Remove(id string, drain bool) error
}

// Policies is the store of the global policy.
type Policies interface {
	Current() *retry.Policy
	Put(change func(retry.Policy) (retry.Policy, error)) (retry.View, error)
	Reset(allow func(retry.Policy) error) (retry.View, error)
}

// Parts are the parts of the gateway to which changes are made.
type Parts struct {
	Engine   Engine
	Pool     Pool
	Policies Policies
}

// Changes makes changes, one at a time. It is safe for concurrent use.
type Changes struct {
	records *records
	log     *slog.Logger

	mu                  sync.Mutex // held during a change, and during a reload
	ids                 *automaticIDs
	parts               Parts
	config              Configuration // the configuration in force, in which all proxies have ids
	policyPartlyInForce bool          // the recorded policy could not be put into force completely

	now     func() time.Time
	removed map[string]removedProxy // the removed proxies by id, for RestoreProxy
}

// Options are the dependencies of a Changes.
type Options struct {
	Records *state.Store // stores the records of changes; nil to record nothing
	IDs     *state.Store // stores automatic ids; nil to keep them in memory only
	Now     func() time.Time
	Log     *slog.Logger
}

// New returns a Changes. Before any other method, the caller calls Configure and then Attach.
func New(o Options) *Changes {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Changes{
		records: &records{store: o.Records}, ids: openIDs(o.IDs, o.Now, o.Log), log: o.Log, now: o.Now,
		removed: map[string]removedProxy{},
	}
}

// NotRecordedError reports that a change was not made because it could not be recorded.
type NotRecordedError struct{ Err error }

func (e *NotRecordedError) Error() string {
	return "the change cannot be written to [state] dir, so it is not made: " + e.Err.Error()
}

// Unwrap returns the error of the store.
func (e *NotRecordedError) Unwrap() error { return e.Err }

// Configure puts a configuration into force. It makes the recorded changes to the configured proxies, and calls apply
// with the result. At the first call of Configure, the result also has the proxies that the API has added. If apply
// returns nil, Configure deletes the records whose configured value has changed. It gives ids to config.Proxies and
// keeps this slice.
func (c *Changes) Configure(config Configuration, apply func(proxies []upstream.Spec) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	recorded := c.records.proxies()
	added := recorded.addedProxies()
	fromAPI := added
	if start := c.parts.Pool == nil; start {
		c.records.logUnusable(c.log)
	} else {
		fromAPI, added = addedByAPI(c.parts.Pool.Snapshot()), nil // the pool already has the added proxies
	}
	isAutomatic := c.ids.assignIDs(config.Proxies, recorded, fromAPI)
	shared := c.sharedProxies(&config)
	for id := range shared {
		delete(recorded, id)
	}
	applied := recorded.apply(config.Proxies, c.ids.fingerprinter)
	changed := c.applyShared(applied.specs, shared)
	if len(added) > 0 {
		names := make(map[string]struct{}, len(config.Proxies))
		for i := range config.Proxies {
			names[config.Proxies[i].ID] = struct{}{}
		}
		for _, spec := range added {
			if _, isTaken := names[spec.ID]; !isTaken {
				changed = append(changed, spec)
			}
		}
	}
	if err := apply(changed); err != nil {
		return err
	}
	c.config = config
	c.records.version.Add(1)
	c.ids.saveIDs(config.Proxies, isAutomatic)
	if c.records.store != nil {
		c.replaceRecords(applied.replacements)
		c.deleteSuperseded(applied.superseded)
		c.recordShared(shared, changed)
	}
	return nil
}

// addedByAPI returns the proxies that the API has added, except those that are being removed.
func addedByAPI(pool *upstream.Snapshot) (specs []upstream.Spec) {
	for _, u := range pool.All {
		if s := u.Spec(); s.Source == upstream.SourceAPI && !u.Draining() {
			specs = append(specs, *s)
		}
	}
	return specs
}

// replaceRecords writes the given records, by key. They replace records whose fingerprints were made with an earlier
// secret key (see proxyRecords.apply). The caller holds mu.
func (c *Changes) replaceRecords(set map[string]any) {
	if len(set) == 0 {
		return
	}
	c.log.Warn("the key of fingerprints in [state] dir has changed since these changes by the API were recorded: each "+
		"change now applies to the proxy that has its id; check the changes with: whirlpool state show",
		slog.Any("changes", slices.Sorted(maps.Keys(set))))
	if err := c.records.write(set); err != nil {
		c.log.Warn("records of changes by the API cannot be written", slog.Any("error", err))
	}
}

// deleteSuperseded deletes the records with the given keys. It also deletes the records of the policy and of
// plugins if the configuration now has another value than at the time of the change. The caller holds mu.
func (c *Changes) deleteSuperseded(superseded []string) {
	if p, err := c.records.policy(); err == nil && !p.file.Equal(&c.config.Policy) &&
		c.config.shared(policyKey) == nil {
		superseded = append(superseded, policyKey)
	}
	for use, configured := range c.config.Plugins {
		key := pluginKey + use
		if a, err := c.records.activation(use); err == nil && a.Configured != configured &&
			c.config.shared(key) == nil {
			superseded = append(superseded, key)
		}
	}
	if len(superseded) == 0 {
		return
	}
	slices.Sort(superseded)
	c.log.Info("the configuration has changed since: changes by the API do not apply any more",
		slog.Any("changes", superseded))
	if err := c.records.delete(superseded...); err != nil {
		c.log.Warn("records of changes by the API cannot be deleted", slog.Any("error", err))
	}
}

// Attach sets the parts to which changes are made. Then it puts the recorded policy into force and activates the
// recorded plugins.
func (c *Changes) Attach(parts Parts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.parts = parts
	if c.records.store == nil {
		return
	}
	if p, err := c.records.policy(); err == nil {
		c.restorePolicy(p.policy)
	}
	for _, use := range usesWithRecords {
		a, err := c.records.activation(use)
		if err != nil {
			continue
		}
		attrs := []any{slog.String("for", use), slog.String("plugin", a.Active),
			slog.String("configured", a.Configured)}
		if err = c.activatePlugin(use, a.Active); err != nil {
			c.log.Warn("an activated plugin is not in use again after the restart",
				append(attrs, slog.Any("error", err))...)
			continue
		}
		c.log.Info("an activated plugin is in use again after the restart", attrs...)
	}
}

// restorePolicy sets the recorded policy. If the plugin of its backoff does not exist any more, the
// configured backoff stays.
func (c *Changes) restorePolicy(p retry.Policy) {
	if !c.parts.Engine.HasBackoff(p.BackoffStrategy) {
		c.log.Warn("an activated plugin is not in use again after the restart", slog.String("for", UseBackoff),
			slog.String("plugin", p.BackoffStrategy), slog.String("configured", c.config.Policy.BackoffStrategy))
		p.BackoffStrategy = c.config.Policy.BackoffStrategy
		c.policyPartlyInForce = true
	}
	_, err := c.parts.Policies.Put(func(retry.Policy) (retry.Policy, error) {
		return p, p.Validate(c.parts.Engine.HasBackoff)
	})
	if err != nil {
		c.policyPartlyInForce = true
		c.log.Warn("the retry policy that the API has set is not in force after the restart", slog.Any("error", err))
		return
	}
	c.log.Info("the retry policy that the API has set is in force after the restart")
}

// AddProxies adds all proxies or none and, if persist is set, records them.
func (c *Changes) AddProxies(specs []upstream.Spec, persist bool) ([]*upstream.Upstream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addProxies(specs, persist)
}

// The caller of addProxies holds mu.
func (c *Changes) addProxies(specs []upstream.Spec, persist bool) ([]*upstream.Upstream, error) {
	specs = c.ids.assignAddedIDs(specs, c.config.Proxies, c.parts.Pool.Snapshot(), c.records.proxyIDs())
	added, err := c.parts.Pool.Add(specs)
	if err != nil || !c.willRecord(persist) {
		return added, err
	}
	ids := make([]string, len(added))
	for i, u := range added {
		ids[i] = u.ID()
	}
	entries := c.configuredProxies(ids...)
	set := map[string]any{}
	for _, u := range added {
		r := newProxyRecord(u.Spec())
		if entry := entries[u.ID()]; entry != nil { // the API had removed the configured proxy
			r.setEntry(entry, c.ids.fingerprinter)
		}
		set[proxyKey+u.ID()] = r
	}
	if err := c.records.write(set); err != nil {
		for _, u := range added {
			c.logUndoError(c.parts.Pool.Remove(u.ID(), false))
		}
		return nil, err
	}
	return added, nil
}

// ChangeProxy changes a proxy and, if persist is set, records the change. It does not record the change of a proxy that
// is neither in the configuration nor recorded.
func (c *Changes) ChangeProxy(id string, change func(*upstream.Spec) error, persist bool) (*upstream.Upstream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.changeProxies(map[string]func(*upstream.Spec) error{id: change}, persist); err != nil {
		return nil, err
	}
	return c.parts.Pool.Snapshot().Get(id), nil
}

// changeProxies makes all the changes or none. The key of a change is the id of the proxy. The caller holds mu.
func (c *Changes) changeProxies(changes map[string]func(*upstream.Spec) error, persist bool) error {
	undo := make(map[string]func(*upstream.Spec) error, len(changes))
	changesWithUndo := make(map[string]func(*upstream.Spec) error, len(changes))
	for id, change := range changes {
		changesWithUndo[id] = func(spec *upstream.Spec) error {
			old := *spec
			undo[id] = func(spec *upstream.Spec) error {
				*spec = old
				return nil
			}
			return change(spec)
		}
	}
	if err := c.parts.Pool.UpdateAll(changesWithUndo); err != nil || !c.willRecord(persist) {
		return err
	}
	set := map[string]any{}
	entries := c.configuredProxies(slices.Collect(maps.Keys(changes))...)
	var err error
	for id, change := range changes {
		var r *proxyRecord
		if r, err = c.changedRecord(id, entries[id], change); err != nil {
			break
		}
		if r != nil {
			set[proxyKey+id] = r
		}
	}
	if err == nil {
		err = c.records.write(set)
	}
	if err != nil {
		c.logUndoError(c.parts.Pool.UpdateAll(undo))
	}
	return err
}

// changedRecord returns the new record of a proxy to which the function change is applied. It returns nil if the proxy
// is neither in the configuration nor recorded. The parameter entry is the proxy's entry in the configuration, or nil
// if there is none. The caller holds mu.
func (c *Changes) changedRecord(
	id string, entry *upstream.Spec, change func(*upstream.Spec) error,
) (*proxyRecord, error) {
	var spec upstream.Spec
	r, err := c.records.proxy(id)
	fingerprint := ""
	if entry != nil {
		fingerprint = c.ids.fingerprinter.entryFingerprint(entry)
	}
	switch {
	case err == nil && !r.Removed && r.EntryFingerprint == fingerprint:
		spec = r.spec(id)
	case entry != nil:
		spec = *entry
	default:
		return nil, nil
	}
	if err := change(&spec); err != nil {
		return nil, err
	}
	next := newProxyRecord(&spec)
	if entry != nil {
		next.setEntry(entry, c.ids.fingerprinter)
	}
	return &next, nil
}

// RemoveProxy removes a proxy as upstream.Pool.Remove does and, if persist is set, records the removal.
func (c *Changes) RemoveProxy(id string, drain, persist bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.removeProxy(id, drain, persist)
}

// The caller of removeProxy holds mu.
func (c *Changes) removeProxy(id string, drain, persist bool) error {
	u := c.parts.Pool.Snapshot().Get(id)
	if u == nil {
		return fmt.Errorf("proxy %q %w", id, core.ErrNotFound)
	}
	before := c.removedProxyOf(u)
	if c.willRecord(persist) {
		set := map[string]any{proxyKey + id: nil}
		if configured := c.configuredProxy(id); configured != nil {
			r := proxyRecord{Removed: true}
			r.setEntry(configured, c.ids.fingerprinter)
			set[proxyKey+id] = r
		}
		if err := c.records.write(set); err != nil {
			return err
		}
	}
	if err := c.parts.Pool.Remove(id, drain); err != nil {
		return err
	}
	c.removed[id] = before
	return nil
}

// ChangePolicy merges an override over the global policy and, if persist is set, records the result. The error is a
// *retry.FieldError or a *NotRecordedError.
func (c *Changes) ChangePolicy(o retry.Override, persist bool) (retry.View, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changePolicy(o, nil, persist)
}

// changePolicy merges o over base or, if base is nil, over the global policy. The caller holds mu.
func (c *Changes) changePolicy(o retry.Override, base *retry.Policy, persist bool) (retry.View, error) {
	return c.parts.Policies.Put(func(p retry.Policy) (retry.Policy, error) {
		if base != nil {
			p = *base
		}
		p = p.Merge(o)
		if err := p.Validate(c.parts.Engine.HasBackoff); err != nil || !c.willRecord(persist) {
			return p, err
		}
		recordedPolicy := c.config.Policy // without the changes that were made with persist = false
		if r, err := c.records.policy(); err == nil && base == nil {
			recordedPolicy = r.policy
		}
		recordedPolicy = recordedPolicy.Merge(o)
		if err := recordedPolicy.Validate(func(string) bool { return true }); err != nil {
			return p, err
		}
		record := any(policyRecord{c.config.Policy, recordedPolicy})
		if recordedPolicy.Equal(&c.config.Policy) {
			record = nil
		}
		if err := c.records.write(map[string]any{policyKey: record}); err != nil {
			return p, err
		}
		c.policyPartlyInForce = false
		return p, nil
	})
}

// ResetPolicy goes back to the policy of the configuration. If persist is set, it deletes the record of the policy;
// otherwise the recorded policy is in force again after a restart. The error is a *retry.FieldError or a
// *NotRecordedError.
func (c *Changes) ResetPolicy(persist bool) (retry.View, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.parts.Policies.Reset(func(p retry.Policy) error {
		if err := p.Validate(c.parts.Engine.HasBackoff); err != nil || !c.willRecord(persist) {
			return err
		}
		if err := c.records.delete(policyKey); err != nil {
			return err
		}
		c.policyPartlyInForce = false
		return nil
	})
}

// Activate activates a plugin for a use (UseFirst, UseRetry, UseBackoff or UseJudge) and, if persist is set, records
// the activation. The error is a *NotRecordedError, or states why the plugin cannot be used in this way.
func (c *Changes) Activate(use, plugin string, persist bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if use == UseBackoff {
		_, err := c.changePolicy(retry.Override{BackoffStrategy: &plugin}, nil, persist)
		return err
	}
	previous := c.activePlugin(use)
	if err := c.activatePlugin(use, plugin); err != nil || !c.willRecord(persist) {
		return err
	}
	var err error
	if configured := c.config.Plugins[use]; plugin == configured {
		err = c.records.delete(pluginKey + use)
	} else {
		err = c.records.write(map[string]any{pluginKey + use: activation{configured, plugin}})
	}
	if err != nil {
		c.logUndoError(c.activatePlugin(use, previous))
	}
	return err
}

func (c *Changes) activePlugin(use string) string {
	first, retry := c.parts.Engine.Scorers()
	switch use {
	case UseFirst:
		return first
	case UseRetry:
		return retry
	}
	return c.parts.Engine.Judge()
}

func (c *Changes) activatePlugin(use, plugin string) error {
	defer c.records.version.Add(1)
	switch use {
	case UseFirst:
		return c.parts.Engine.Activate(plugin, "")
	case UseRetry:
		return c.parts.Engine.Activate("", plugin)
	case UseJudge:
		return c.parts.Engine.ActivateJudge(plugin)
	}
	return fmt.Errorf("use %q %w", use, core.ErrNotFound)
}

// willRecord reports whether a change is recorded: persist is set, and there is a store.
func (c *Changes) willRecord(persist bool) bool { return persist && c.records.store != nil }

// configuredProxy returns the entry of a proxy in the configuration; nil for none. The caller holds mu.
func (c *Changes) configuredProxy(id string) *upstream.Spec { return c.configuredProxies(id)[id] }

// configuredProxies returns the entries of proxies in the configuration, by id. The caller holds mu.
func (c *Changes) configuredProxies(ids ...string) map[string]*upstream.Spec {
	out := make(map[string]*upstream.Spec, len(ids))
	for _, id := range ids {
		out[id] = nil
	}
	for i := range c.config.Proxies {
		entry := &c.config.Proxies[i]
		if _, wanted := out[entry.ID]; wanted {
			out[entry.ID] = entry
		}
	}
	return out
}

// logUndoError logs the error of an undo, unless err is nil. The undo followed a change that could not be recorded.
func (c *Changes) logUndoError(err error) {
	if err != nil {
		c.log.Error("a change by the API is in force until the restart: it could be neither written to [state] dir "+
			"nor undone", slog.Any("error", err))
	}
}

// Record describes one recorded change.
type Record struct {
	Key     string // policy, plugin/USE or proxy/ID
	Change  string // added, changed, removed or activated
	At      time.Time
	InForce bool // false if the configuration does not have the proxy now, or if the record could not be used
}

// RecordsVersion returns a number that grows whenever RecordedChanges may have a new result. It takes no lock.
func (c *Changes) RecordsVersion() uint64 { return c.records.version.Load() }

// RecordedChanges returns the recorded changes, sorted by key. It returns false if there is no store.
func (c *Changes) RecordedChanges() (list []Record, ok bool) {
	if c.records.store == nil {
		return nil, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.records.store.All()
	configured := c.configuredProxies(c.records.proxyIDs()...)
	for _, key := range slices.Sorted(maps.Keys(all)) {
		r := Record{Key: key, At: all[key].At, Change: "changed"}
		id, isProxy := strings.CutPrefix(key, proxyKey)
		use, isPlugin := strings.CutPrefix(key, pluginKey)
		switch {
		case isProxy:
			if p, err := c.records.proxy(id); err == nil {
				r.Change = p.changeKind()
				r.InForce = p.EntryFingerprint == "" || configured[id] != nil
			}
		case isPlugin:
			r.Change = "activated"
			a, err := c.records.activation(use)
			r.InForce = err == nil && c.activePlugin(use) == a.Active
		default:
			r.InForce = c.records.check(key) == nil && !c.policyPartlyInForce
		}
		list = append(list, r)
	}
	return list, true
}

// DeleteRecord deletes the record of a key, or all records if key is "". The recorded change stays in force until the
// next start or, for a proxy of the configuration, until the next reload.
func (c *Changes) DeleteRecord(key string) error {
	if c.records.store == nil {
		return fmt.Errorf("no change is recorded, because there is no state folder ([state] dir): %w",
			core.ErrNotFound)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if key == "" {
		return c.records.delete(slices.Collect(maps.Keys(c.records.store.All()))...)
	}
	if _, ok := c.records.store.Get(key); !ok {
		return fmt.Errorf("a recorded change %q %w", key, core.ErrNotFound)
	}
	return c.records.delete(key)
}
