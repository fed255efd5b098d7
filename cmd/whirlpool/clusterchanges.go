package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/changes"
	"github.com/whirlpool-proxy/whirlpool/core/cluster"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// The keys of shared changes. A key that ends with "/" is only the beginning of the whole key.
const (
	sharedPolicy = "policy"
	sharedPlugin = "plugin/" // followed by the use of the plugin, such as first (changes.UseFirst)
	sharedProxy  = "proxy/"  // followed by the id of the proxy
	sharedModule = "upload/" // followed by the name of the uploaded plugin
)

// removalTTL is the time for which the store keeps the record of a removed upload, or of a removed proxy that is not
// configured. If a node cannot reach the store or does not run when something is removed, it makes the removal later,
// when it reads this record.
const removalTTL = 7 * 24 * time.Hour

// shareTimeout is the maximum time for which a change by the API waits for the store.
const shareTimeout = time.Second

// sharedChange is the record of a change by the API. The other nodes read the record and make the same change.
type sharedChange struct {
	Node string `json:"by"` // the name of the node that made the change
	// Made is a different text in each record of a change. If two records have the same Made, the second is a copy of
	// the first, and the other nodes ignore it. A new change is made even if it equals the last one, because the
	// configuration may have undone the last one.
	Made    string          `json:"made"`
	Persist bool            `json:"keep,omitempty"`
	Policy  json.RawMessage `json:"policy,omitempty"`
	Reset   bool            `json:"reset,omitempty"` // back to the policy of the configuration
	Plugin  string          `json:"plugin,omitempty"`
	Proxy   json.RawMessage `json:"proxy,omitempty"` // see changes.ProxyValue
	Entry   string          `json:"entry,omitempty"` // see changes.SharedChange
	// Fields are the fields of Policy or Proxy that differ from the configuration of the node that made the change.
	Fields []string `json:"fields,omitempty"`
	// Configured is set if Plugin is the plugin that the configuration of this change's node names. Each other node
	// then uses the plugin that its own configuration names.
	Configured bool          `json:"configured,omitempty"`
	Removed    bool          `json:"removed,omitempty"`
	Drain      bool          `json:"drain,omitempty"`
	Upload     *sharedUpload `json:"upload,omitempty"`
}

// Apply implements cluster.Local. A change of a large pool takes long, so Apply collects the additions and replacements
// of proxies, and makes many of them in one call of changes.PutProxies. The order of two changes is kept only if they
// concern the same thing.
func (cn *clusterNode) Apply(newChanges []cluster.Change) []error {
	errs := make([]error, len(newChanges))
	puts, indexes := map[bool][]changes.ProxyPut{}, map[bool][]int{} // the keys are values of sharedChange.Persist
	putKeys := map[string]bool{}                                     // the keys of puts
	flush := func() {
		for _, persist := range []bool{false, true} {
			for i, err := range cn.changes.PutProxies(puts[persist], persist) {
				errs[indexes[persist][i]] = err
			}
		}
		clear(puts)
		clear(indexes)
		clear(putKeys)
	}
	for i, ch := range newChanges {
		var c sharedChange
		if errs[i] = json.Unmarshal([]byte(ch.Value), &c); errs[i] != nil {
			continue
		}
		if putKeys[ch.Key] {
			flush()
		}
		if id, isProxy := strings.CutPrefix(ch.Key, sharedProxy); isProxy && !c.Removed {
			puts[c.Persist] = append(puts[c.Persist], changes.ProxyPut{ID: id, SharedChange: c.proxy()})
			indexes[c.Persist] = append(indexes[c.Persist], i)
			putKeys[ch.Key] = true
			continue
		}
		errs[i] = cn.apply(ch.Key, &c)
	}
	flush()
	return errs
}

// apply makes a change that another node has made. Apply calls it for each change except the addition or replacement of
// a proxy.
func (cn *clusterNode) apply(key string, c *sharedChange) error {
	id, isProxy := strings.CutPrefix(key, sharedProxy)
	use, isPlugin := strings.CutPrefix(key, sharedPlugin)
	name, isUpload := strings.CutPrefix(key, sharedModule)
	cn.uploads.dropActivation(key)
	switch {
	case isProxy:
		if err := cn.changes.RemoveShared(id, c.proxy(), c.Drain); !errors.Is(err, core.ErrNotFound) {
			return err
		}
		return nil
	case isUpload:
		return cn.uploads.applyRecord(name, c)
	case isPlugin:
		plugin := c.Plugin
		if c.Configured {
			plugin = cn.changes.Configured(use)
		}
		if cn.uploads.delayActivation(key, use, plugin, c.Persist) {
			return nil
		}
		return cn.changes.Activate(use, plugin, c.Persist)
	case key == sharedPolicy && c.Reset:
		_, err := cn.changes.ResetPolicy(c.Persist)
		return err
	case key == sharedPolicy:
		return cn.changes.PutPolicy(cn.uploads.withoutBackoff(c.Policy, c.Persist), c.Fields, c.Persist)
	}
	return errors.New("this version makes no such changes")
}

// proxy returns the change of a proxy.
func (c *sharedChange) proxy() changes.SharedChange {
	return changes.SharedChange{
		Value: c.Proxy, Entry: c.Entry, Fields: c.Fields, Removed: c.Removed, Persist: c.Persist,
	}
}

// reload calls the function configure, which puts a configuration into force, without losing the shared changes.
// configure itself applies the shared changes of proxies: it gets a function that returns the shared change of a key.
// After that, reload makes the shared changes of the policy and of plugins again.
func (cn *clusterNode) reload(configure func(shared func(key string) *changes.SharedChange) error) (err error) {
	if cn == nil {
		return configure(nil)
	}
	cn.node.BetweenChanges(func() {
		if err = configure(cn.sharedChange); err != nil {
			return
		}
		for _, key := range []string{sharedPolicy, sharedPlugin + changes.UseFirst, sharedPlugin + changes.UseRetry,
			sharedPlugin + changes.UseJudge} {
			var c sharedChange
			if !cn.lastChange(key, &c) || c.Reset {
				continue
			}
			if err := cn.apply(key, &c); err != nil {
				cn.log.Warn("a change by the API is not in force after the reload", slog.String("change", key),
					slog.Any("error", err))
			}
		}
	})
	return err
}

// lastChange reads the last shared change of a key; it returns false for none.
func (cn *clusterNode) lastChange(key string, c *sharedChange) bool {
	value, ok := cn.node.LastChange(key)
	return ok && json.Unmarshal([]byte(value), c) == nil
}

// sharedChange returns the last shared change of a key; nil for none.
func (cn *clusterNode) sharedChange(key string) *changes.SharedChange {
	var c sharedChange
	if !cn.lastChange(key, &c) || c.Reset {
		return nil
	}
	ch := c.proxy()
	return &ch
}

// sharedChanges makes the changes of the API on this node and on the other nodes. It implements api.Changes. A change
// may be made a second time in the background, after the API has responded (cluster.Change.Redo). For this reason, the
// functions that make changes store their results in atomic variables.
type sharedChanges struct {
	*changes.Changes
	node *clusterNode
}

// share calls a function that makes changes on this node and returns their records. Then it sends these records to the
// other nodes.
func (s sharedChanges) share(do func() ([]cluster.Change, error)) error {
	ctx, cancel := context.WithTimeout(context.Background(), shareTimeout)
	defer cancel()
	return s.node.node.Change(ctx, do)
}

// shareOne calls a function that makes one change on this node and returns the record of the change. Then it sends the
// record to the other nodes, under the given key.
func (s sharedChanges) shareOne(key string, do func() (sharedChange, error)) error {
	return s.share(func() ([]cluster.Change, error) {
		c, err := do()
		if err != nil {
			return nil, err
		}
		ttl := time.Duration(0)
		if c.Removed && c.Entry == "" { // a configured proxy stays removed
			ttl = removalTTL
		}
		value, err := s.encode(c)
		return []cluster.Change{{Key: key, Value: value, TTL: ttl, Redo: func() (string, error) {
			c, err := do()
			if err != nil {
				return "", err
			}
			return s.encode(c)
		}}}, err
	})
}

func (s sharedChanges) encode(c sharedChange) (string, error) { return s.node.encode(c) }

func (cn *clusterNode) encode(c sharedChange) (string, error) {
	c.Node, c.Made = cn.node.Name(), rand.Text()
	data, err := json.Marshal(c)
	return string(data), err
}

// AddProxies adds proxies on all nodes. If persist is set, the change is recorded, so that it survives a restart.
func (s sharedChanges) AddProxies(specs []upstream.Spec, persist bool) (added []*upstream.Upstream, err error) {
	err = s.share(func() (made []cluster.Change, err error) {
		if added, err = s.Changes.AddProxies(specs, persist); err != nil {
			return nil, err
		}
		made, err = s.recordAdditions(added, persist)
		return made, err
	})
	return added, err
}

// recordAdditions returns the records of new proxies as changes for the other nodes. If another node has at the same
// time changed a proxy with the same id, the new proxy replaces that one (Change.Redo).
func (s sharedChanges) recordAdditions(added []*upstream.Upstream, persist bool) (made []cluster.Change, err error) {
	list, err := s.Shared(added...)
	if err != nil {
		return nil, err
	}
	for i, ch := range list {
		id := added[i].ID()
		value, err := s.encode(proxyRecord(ch, persist))
		if err != nil {
			return nil, err
		}
		made = append(made, cluster.Change{Key: sharedProxy + id, Value: value, Redo: func() (string, error) {
			return value, s.PutProxies([]changes.ProxyPut{{ID: id, SharedChange: ch}}, persist)[0]
		}})
	}
	return made, nil
}

// proxyRecord returns the record of a new or changed proxy.
func proxyRecord(ch changes.SharedChange, persist bool) sharedChange {
	return sharedChange{Proxy: ch.Value, Entry: ch.Entry, Fields: ch.Fields, Persist: persist}
}

// ChangeProxy changes a proxy on all nodes. The given function changes the proxy's settings. The parameter persist is
// as in AddProxies.
func (s sharedChanges) ChangeProxy(
	id string, change func(*upstream.Spec) error, persist bool,
) (*upstream.Upstream, error) {
	var u atomic.Pointer[upstream.Upstream]
	err := s.shareOne(sharedProxy+id, func() (sharedChange, error) {
		changed, err := s.Changes.ChangeProxy(id, change, persist)
		if err != nil {
			return sharedChange{}, err
		}
		u.Store(changed)
		list, err := s.Shared(changed)
		if err != nil {
			return sharedChange{}, err
		}
		return proxyRecord(list[0], persist), nil
	})
	return u.Load(), err
}

// RemoveProxy removes a proxy on all nodes. If drain is set, the proxy stays in the pool until its attempts in flight
// have ended. The parameter persist is as in AddProxies.
func (s sharedChanges) RemoveProxy(id string, drain, persist bool) error {
	first := true
	return s.shareOne(sharedProxy+id, func() (sharedChange, error) {
		err := s.Changes.RemoveProxy(id, drain, persist)
		if !first && errors.Is(err, core.ErrNotFound) {
			err = nil // another node has removed the proxy, too
		}
		first = false
		return sharedChange{Removed: true, Drain: drain, Persist: persist, Entry: s.Entry(id)}, err
	})
}

// RestoreProxy undoes the removal of a proxy.
func (s sharedChanges) RestoreProxy(id string, persist bool) (u *upstream.Upstream, err error) {
	err = s.share(func() (made []cluster.Change, err error) {
		if u, err = s.Changes.RestoreProxy(id, persist); err != nil {
			return nil, err
		}
		made, err = s.recordAdditions([]*upstream.Upstream{u}, persist)
		return made, err
	})
	return u, err
}

// ChangePolicy merges o over the global policy of this node, and makes the result the global policy of all nodes.
func (s sharedChanges) ChangePolicy(o retry.Override, persist bool) (retry.View, error) {
	return s.sharePolicy(func() (retry.View, sharedChange, error) {
		v, err := s.Changes.ChangePolicy(o, persist)
		if err != nil {
			return v, sharedChange{}, err
		}
		if o.BackoffStrategy != nil {
			s.node.uploads.dropActivation(sharedPolicy)
		}
		c, err := s.policy(persist)
		return v, c, err
	})
}

// ResetPolicy makes each node use the policy of its own configuration again.
func (s sharedChanges) ResetPolicy(persist bool) (retry.View, error) {
	return s.sharePolicy(func() (retry.View, sharedChange, error) {
		v, err := s.Changes.ResetPolicy(persist)
		s.node.uploads.dropActivation(sharedPolicy)
		return v, sharedChange{Reset: true, Persist: persist}, err
	})
}

// sharePolicy changes the global policy on all nodes. The given function changes it on this node, and returns the new
// policy and the record of the change.
func (s sharedChanges) sharePolicy(change func() (retry.View, sharedChange, error)) (retry.View, error) {
	var view atomic.Pointer[retry.View]
	err := s.shareOne(sharedPolicy, func() (sharedChange, error) {
		v, c, err := change()
		view.Store(&v)
		return c, err
	})
	return *view.Load(), err
}

// policy returns the record of the global policy. If the policy's backoff is a plugin that has not been loaded yet,
// the record names this plugin, although the gateway uses another backoff in the meantime.
func (s sharedChanges) policy(persist bool) (sharedChange, error) {
	p := *s.node.engine.Load().Policies().Current()
	p.BackoffStrategy = cmp.Or(s.node.uploads.waitingBackoff(), p.BackoffStrategy)
	value, err := json.Marshal(&p)
	if err != nil {
		return sharedChange{}, err
	}
	fields, err := s.PolicyFields(&p)
	return sharedChange{Policy: value, Fields: fields, Persist: persist}, err
}

// Activate makes all nodes use a plugin. The parameter use is the place where they use it, such as "judge".
func (s sharedChanges) Activate(use, plugin string, persist bool) error {
	if use == changes.UseBackoff {
		return s.shareOne(sharedPolicy, func() (sharedChange, error) {
			if err := s.Changes.Activate(use, plugin, persist); err != nil {
				return sharedChange{}, err
			}
			s.node.uploads.dropActivation(sharedPolicy)
			return s.policy(persist)
		})
	}
	return s.shareOne(sharedPlugin+use, func() (sharedChange, error) {
		err := s.Changes.Activate(use, plugin, persist)
		if err == nil {
			s.node.uploads.dropActivation(sharedPlugin + use)
		}
		return sharedChange{Plugin: plugin, Configured: plugin == s.Configured(use), Persist: persist}, err
	})
}
