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

// ProxyPut is a proxy with the fields that ProxyValue returned.
type ProxyPut struct {
	ID    string
	Value json.RawMessage
}

// PutProxies adds each proxy to the pool. If the pool already has a proxy with this id, PutProxies changes the proxy.
// It skips a proxy whose fields and record would stay the same. The result has an error or nil for each element of
// puts. If persist is set, the changes are recorded. All new proxies are added together, and all other proxies are
// changed together, because each change of a large pool takes long.
func (c *Changes) PutProxies(puts []ProxyPut, persist bool) []error {
	if len(puts) == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	errs := make([]error, len(puts))
	var added []upstream.Spec
	changed := map[string]func(*upstream.Spec) error{}
	var toAdd, toChange, single []int // indices in puts
	seen := map[string]bool{}
	snapshot, entries := c.parts.Pool.Snapshot(), c.configuredProxiesOf(puts)
	for i, p := range puts {
		spec, err := parsePut(p)
		u := snapshot.Get(p.ID)
		switch {
		case err != nil:
			errs[i] = err
		case seen[p.ID] || u != nil && u.Draining():
			single = append(single, i)
		case u == nil:
			added, toAdd = append(added, spec), append(toAdd, i)
		case !c.isInForce(u, &spec, entries[p.ID], persist):
			changed[p.ID], toChange = setFields(&spec), append(toChange, i)
		}
		seen[p.ID] = true
	}
	// After an error, the proxies are put one by one, so that one error does not prevent the others.
	if len(added) > 0 {
		if _, err := c.addProxies(added, persist); err != nil {
			single = append(single, toAdd...)
		}
	}
	if len(changed) > 0 && c.changeProxies(changed, persist) != nil {
		single = append(single, toChange...)
	}
	slices.Sort(single)
	for _, i := range single {
		errs[i] = c.putProxy(puts[i], persist)
	}
	return errs
}

func (c *Changes) configuredProxiesOf(puts []ProxyPut) map[string]*upstream.Spec {
	ids := make([]string, len(puts))
	for i := range puts {
		ids[i] = puts[i].ID
	}
	return c.configuredProxies(ids...)
}

// setFields returns a function that copies from spec those fields that the API can change.
func setFields(spec *upstream.Spec) func(*upstream.Spec) error {
	r := newProxyRecord(spec)
	return func(s *upstream.Spec) error {
		r.applyTo(s)
		return nil
	}
}

// isInForce reports whether the fields in spec would change neither the proxy u nor its record. The parameter entry is
// the proxy's entry in the configuration, or nil if there is none. The caller holds mu.
func (c *Changes) isInForce(u *upstream.Upstream, spec, entry *upstream.Spec, persist bool) bool {
	present, err := ProxyValue(u.Spec())
	wanted, wrong := ProxyValue(spec)
	if err != nil || wrong != nil || !bytes.Equal(present, wanted) {
		return false
	}
	if !c.willRecord(persist) {
		return true
	}
	next, err := c.changedRecord(u.ID(), entry, setFields(spec))
	if err != nil || next == nil {
		return err == nil
	}
	value, err := json.Marshal(next)
	record, _ := c.records.store.Get(proxyKey + u.ID())
	return err == nil && bytes.Equal(value, record.Value)
}

func parsePut(p ProxyPut) (spec upstream.Spec, err error) {
	var r proxyRecord
	if err = json.Unmarshal(p.Value, &r); err != nil {
		return spec, err
	}
	spec = r.spec(p.ID)
	return spec, upstream.CheckSpec(&spec)
}

// The caller of putProxy holds mu.
func (c *Changes) putProxy(p ProxyPut, persist bool) error {
	spec, err := parsePut(p)
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
		return c.changeProxies(map[string]func(*upstream.Spec) error{p.ID: setFields(&spec)}, persist)
	}
	_, err = c.addProxies([]upstream.Spec{spec}, persist)
	return err
}

// PutPolicy puts all fields of value, the JSON of a policy, into the global policy. If persist is set, it records the
// change.
func (c *Changes) PutPolicy(value json.RawMessage, persist bool) error {
	var o retry.Override
	if err := strict.DecodeJSON(value, &o); err != nil {
		return err
	}
	_, err := c.ChangePolicy(o, persist)
	return err
}
