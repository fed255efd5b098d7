package changes

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Changes that another gateway of the cluster has made arrive as values: a proxy with all fields that the API can
// change, or a whole policy.

// ProxyValue returns the fields of a proxy that the API can change, with its credentials.
func ProxyValue(s *upstream.Spec) (json.RawMessage, error) { return json.Marshal(newProxyRecord(s)) }

// Put is a proxy with the fields that ProxyValue returned.
type Put struct {
	ID    string
	Value json.RawMessage
}

// PutProxies adds each proxy or, if the pool already has a proxy with its id, changes that proxy. The result has one
// error for each element of puts; nil stands for success. If keep is set, the changes are recorded. The new proxies
// are added together, and the others are changed together, because a change of a large pool takes long. PutProxies
// skips a proxy that already has the fields of its put. After a restart, it skips most proxies.
func (c *Changes) PutProxies(puts []Put, keep bool) []error {
	if len(puts) == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	errs := make([]error, len(puts))
	var added []upstream.Spec
	changed := map[string]func(*upstream.Spec) error{}
	var toAdd, toChange, alone []int // indices in puts
	seen := map[string]bool{}
	snapshot, entries := c.parts.Pool.Snapshot(), c.entriesOf(puts)
	for i, p := range puts {
		spec, err := specOf(p)
		u := snapshot.Get(p.ID)
		switch {
		case err != nil:
			errs[i] = err
		case seen[p.ID] || u != nil && u.Draining():
			alone = append(alone, i)
		case u == nil:
			added, toAdd = append(added, spec), append(toAdd, i)
		case !c.inForce(u, &spec, entries[p.ID], keep):
			changed[p.ID], toChange = setting(&spec), append(toChange, i)
		}
		seen[p.ID] = true
	}
	// After an error, each proxy is put alone, so that one error does not prevent the others.
	if len(added) > 0 {
		if _, err := c.addProxies(added, keep); err != nil {
			alone = append(alone, toAdd...)
		}
	}
	if len(changed) > 0 && c.changeProxies(changed, keep) != nil {
		alone = append(alone, toChange...)
	}
	slices.Sort(alone)
	for _, i := range alone {
		errs[i] = c.putProxy(puts[i], keep)
	}
	return errs
}

func (c *Changes) entriesOf(puts []Put) map[string]*upstream.Spec {
	ids := make([]string, len(puts))
	for i := range puts {
		ids[i] = puts[i].ID
	}
	return c.entries(ids...)
}

// setting returns a function that changes a proxy. The function copies the fields that the API can change from spec.
func setting(spec *upstream.Spec) func(*upstream.Spec) error {
	r := newProxyRecord(spec)
	return func(s *upstream.Spec) error {
		r.set(s)
		return nil
	}
}

// inForce reports whether a put of spec would change neither the proxy u nor its record. The parameter entry is the
// entry of u in the configuration; nil for none. The caller holds mu.
func (c *Changes) inForce(u *upstream.Upstream, spec, entry *upstream.Spec, keep bool) bool {
	is, err := ProxyValue(u.Spec())
	shall, wrong := ProxyValue(spec)
	if err != nil || wrong != nil || !bytes.Equal(is, shall) {
		return false
	}
	if !c.keeps(keep) {
		return true
	}
	next, err := c.changedRecord(u.ID(), entry, setting(spec))
	if err != nil || next == nil {
		return err == nil
	}
	value, err := json.Marshal(next)
	record, _ := c.records.store.Get(proxyKey + u.ID())
	return err == nil && bytes.Equal(value, record.Value)
}

func specOf(p Put) (spec upstream.Spec, err error) {
	var r proxyRecord
	if err = json.Unmarshal(p.Value, &r); err != nil {
		return spec, err
	}
	spec = r.spec(p.ID)
	return spec, upstream.CheckSpec(&spec)
}

// putProxy puts one proxy. The caller holds mu.
func (c *Changes) putProxy(p Put, keep bool) error {
	spec, err := specOf(p)
	if err != nil {
		return err
	}
	switch u := c.parts.Pool.Snapshot().Get(p.ID); {
	case u == nil:
	case u.Draining(): // the proxy was removed at this gateway, too, and its last attempts have not ended
		if err := c.parts.Pool.Remove(p.ID, false); err != nil {
			return err
		}
	default:
		return c.changeProxies(map[string]func(*upstream.Spec) error{p.ID: setting(&spec)}, keep)
	}
	_, err = c.addProxies([]upstream.Spec{spec}, keep)
	return err
}

// PutPolicy sets all fields of the global policy, in JSON. If keep is set, the change is recorded.
func (c *Changes) PutPolicy(value json.RawMessage, keep bool) error {
	var o retry.Override
	if err := strict.DecodeJSON(value, &o); err != nil {
		return err
	}
	_, err := c.ChangePolicy(o, keep)
	return err
}
