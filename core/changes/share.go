package changes

import (
	"encoding/json"

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

// PutProxies adds each proxy or, if the pool already has a proxy with its id, changes that proxy. The result has an
// error for each element of puts, which is nil for success. If keep is set, the changes are recorded. The new proxies
// are added together, because adding to a large pool takes long.
func (c *Changes) PutProxies(puts []Put, keep bool) []error {
	var added []upstream.Spec
	together := map[int]bool{} // indices in puts of the proxies in added
	seen := map[string]bool{}
	snapshot := c.parts.Pool.Snapshot()
	for i, p := range puts {
		if !seen[p.ID] && snapshot.Get(p.ID) == nil {
			if spec, err := specOf(p); err == nil {
				added, together[i] = append(added, spec), true
			}
		}
		seen[p.ID] = true
	}
	if len(added) > 0 {
		if _, err := c.AddProxies(added, keep); err != nil {
			together = nil // each proxy is added alone, so that one error does not prevent the others
		}
	}
	errs := make([]error, len(puts))
	for i, p := range puts {
		if !together[i] {
			errs[i] = c.putProxy(p, keep)
		}
	}
	return errs
}

func specOf(p Put) (spec upstream.Spec, err error) {
	var r proxyRecord
	if err = json.Unmarshal(p.Value, &r); err != nil {
		return spec, err
	}
	spec = r.spec(p.ID)
	return spec, upstream.CheckSpec(&spec)
}

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
		r := newProxyRecord(&spec)
		_, err := c.ChangeProxy(p.ID, func(s *upstream.Spec) error {
			r.set(s)
			return nil
		}, keep)
		return err
	}
	_, err = c.AddProxies([]upstream.Spec{spec}, keep)
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
