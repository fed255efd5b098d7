package changes

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Changes of other gateways of the cluster arrive as values: a proxy with all fields that the API can change, or a
// whole policy. For a configured proxy or the policy, the change also has the names of the fields that differ from the
// configuration. Each gateway sets these fields in its own configuration: when the change arrives, at a reload and at a
// start. So all gateways with the same configuration have the same result.

// SharedChange is a change that all gateways of the cluster make.
type SharedChange struct {
	Value json.RawMessage // see ProxyValue; nil for a removed proxy
	// Entry identifies the address of the configured proxy that was changed (see entryOf). Entry is "" if the API has
	// added the proxy; then the change does not concern a configured proxy.
	Entry   string
	Fields  []string // of a configured proxy: those fields of Value that differ from the configuration
	Removed bool
	Persist bool // the change is recorded
}

// ProxyValue returns the fields of a proxy that the API can change, with its credentials.
func ProxyValue(s *upstream.Spec) (json.RawMessage, error) { return json.Marshal(newProxyRecord(s)) }

// entryOf returns a hash of the address of a configured proxy, without the credentials.
func entryOf(s *upstream.Spec) string {
	return fmt.Sprintf("%08x", uint32(core.Hash53(s.Address.Scheme+"://"+s.Address.Host)))
}

// Shared returns a change for each of the given proxies. If the other gateways make these changes, their proxies are
// the same as here.
func (c *Changes) Shared(proxies ...*upstream.Upstream) ([]SharedChange, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := make([]string, len(proxies))
	for i, u := range proxies {
		ids[i] = u.ID()
	}
	entries, out := c.configuredProxies(ids...), make([]SharedChange, len(proxies))
	for i, u := range proxies {
		var err error
		if out[i].Value, err = ProxyValue(u.Spec()); err != nil {
			return nil, err
		}
		entry := entries[ids[i]]
		if entry == nil {
			continue
		}
		out[i].Entry = entryOf(entry)
		if out[i].Fields, err = differentFields(normalRecord(entry), normalRecord(u.Spec())); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Entry returns the value of SharedChange.Entry for the configured proxy with the given id.
func (c *Changes) Entry(id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if entry := c.configuredProxy(id); entry != nil {
		return entryOf(entry)
	}
	return ""
}

// PolicyFields returns the names of those fields of the policy p that differ from the configured policy.
func (c *Changes) PolicyFields(p *retry.Policy) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return differentFields(&c.config.Policy, p)
}

// Configured returns the plugin that the configuration names for a use.
func (c *Changes) Configured(use string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.config.Plugins[use]
}

// normalRecord returns the record of a proxy. Two proxies that differ only in how a default is written have the same
// record.
func normalRecord(s *upstream.Spec) proxyRecord {
	r := newProxyRecord(s)
	if r.Weight == 0 {
		r.Weight = 1
	}
	if len(r.Metadata) == 0 {
		r.Metadata = nil
	}
	return r
}

// fieldsOf returns the JSON of the fields of v.
func fieldsOf(v any) (fields map[string]json.RawMessage, err error) {
	data, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(data, &fields)
	}
	return fields, err
}

// differentFields returns the names of the fields in which the JSON of a and b differs. If there are none, the list is
// empty, but not nil.
func differentFields(a, b any) ([]string, error) {
	before, err := fieldsOf(a)
	if err != nil {
		return nil, err
	}
	after, err := fieldsOf(b)
	if err != nil {
		return nil, err
	}
	names := []string{}
	for name := range after {
		if !bytes.Equal(before[name], after[name]) {
			names = append(names, name)
		}
	}
	for name := range before {
		if _, has := after[name]; !has {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// concerns reports whether the change belongs to the given configured proxy. It also returns true for nil, which stands
// for a proxy that is not configured here.
func (ch *SharedChange) concerns(entry *upstream.Spec) bool {
	return entry == nil || ch.Entry == entryOf(entry)
}

// changed returns the proxy after the change. The parameter entry is the configured proxy with this id, or nil if there
// is none.
func (ch *SharedChange) changed(id string, entry *upstream.Spec) (spec upstream.Spec, err error) {
	var r proxyRecord
	if err = json.Unmarshal(ch.Value, &r); err != nil {
		return spec, err
	}
	if entry == nil {
		spec = r.spec(id)
		return spec, upstream.CheckSpec(&spec)
	}
	fields, err := fieldsOf(normalRecord(entry))
	if err != nil {
		return spec, err
	}
	changed, err := fieldsOf(r)
	if err != nil {
		return spec, err
	}
	for _, name := range ch.Fields {
		if value, has := changed[name]; has {
			fields[name] = value
		} else {
			delete(fields, name)
		}
	}
	data, err := json.Marshal(fields)
	if err != nil {
		return spec, err
	}
	r = proxyRecord{}
	if err = json.Unmarshal(data, &r); err != nil {
		return spec, err
	}
	spec = *entry
	r.applyTo(&spec)
	return spec, upstream.CheckSpec(&spec)
}

// sharedProxies returns the shared changes of the configured proxies, by id.
func (c *Changes) sharedProxies(config *Configuration) map[string]*SharedChange {
	if config.Shared == nil {
		return nil
	}
	out := map[string]*SharedChange{}
	for i := range config.Proxies {
		entry := &config.Proxies[i]
		if ch := config.Shared(proxyKey + entry.ID); ch != nil && ch.concerns(entry) {
			out[entry.ID] = ch
		}
	}
	return out
}

// applyShared returns the configured proxies with the shared changes.
func (c *Changes) applyShared(configured []upstream.Spec, shared map[string]*SharedChange) []upstream.Spec {
	if len(shared) == 0 {
		return configured
	}
	out := make([]upstream.Spec, 0, len(configured))
	for i := range configured {
		spec := configured[i]
		ch := shared[spec.ID]
		switch {
		case ch == nil:
		case ch.Removed:
			continue
		default:
			changed, err := ch.changed(spec.ID, &spec)
			if err != nil {
				c.log.Warn("a change by the API does not fit the configured proxy: it is not in force",
					slog.String("proxy", spec.ID), slog.Any("error", err))
				break
			}
			spec = changed
		}
		out = append(out, spec)
	}
	return out
}

// recordShared records the shared changes of configured proxies. It takes the fields of the proxies after the changes
// from the parameter changed. The caller holds mu.
func (c *Changes) recordShared(shared map[string]*SharedChange, changed []upstream.Spec) {
	if len(shared) == 0 {
		return
	}
	entries := c.configuredProxies(slices.Collect(maps.Keys(shared))...)
	specs := make(map[string]*upstream.Spec, len(shared))
	for i := range changed {
		specs[changed[i].ID] = &changed[i]
	}
	set := map[string]any{}
	for id, ch := range shared {
		if !ch.Persist {
			continue
		}
		r := proxyRecord{Removed: true}
		if spec := specs[id]; spec != nil {
			r = newProxyRecord(spec)
		}
		r.setEntry(entries[id], c.ids.fingerprinter)
		value, err := json.Marshal(r)
		if old, _ := c.records.store.Get(proxyKey + id); err == nil && !bytes.Equal(value, old.Value) {
			set[proxyKey+id] = r
		}
	}
	if len(set) == 0 {
		return
	}
	if err := c.records.write(set); err != nil {
		c.log.Warn("records of changes by the API cannot be written", slog.Any("error", err))
	}
}

// ProxyPut is the shared change of a proxy that is not removed.
type ProxyPut struct {
	ID string
	SharedChange
}

// PutProxies makes shared changes: it changes each proxy or, if the gateway does not have it, adds it. It skips a proxy
// whose fields and record would stay the same, and a change that does not concern the configured proxy with the
// id. It does not add a proxy that is configured at other gateways only. The result has an error or nil for each
// element of puts. If persist is set, the changes are recorded. All new proxies are added together, and all other
// proxies are changed together, because each change of a large pool takes long.
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
	for i := range puts {
		p, entry := &puts[i], entries[puts[i].ID]
		u := snapshot.Get(p.ID)
		if !p.concerns(entry) || u == nil && entry == nil && p.Entry != "" {
			continue
		}
		spec, err := p.changed(p.ID, entry)
		switch {
		case err != nil:
			errs[i] = err
		case seen[p.ID] || u != nil && u.Draining():
			single = append(single, i)
		case u == nil:
			added, toAdd = append(added, spec), append(toAdd, i)
		case !c.isInForce(u, &spec, entry, persist):
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
		errs[i] = c.putProxy(&puts[i], entries[puts[i].ID], persist)
	}
	return errs
}

// RemoveShared makes the shared removal of a proxy, as RemoveProxy does. It does nothing if the removal does not
// concern the configured proxy with the id.
func (c *Changes) RemoveShared(id string, ch SharedChange, drain bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !ch.concerns(c.configuredProxy(id)) {
		return nil
	}
	return c.removeProxy(id, drain, ch.Persist)
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

// The caller of putProxy holds mu.
func (c *Changes) putProxy(p *ProxyPut, entry *upstream.Spec, persist bool) error {
	spec, err := p.changed(p.ID, entry)
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

// PutPolicy makes a shared change of the global policy: value is the JSON of a policy, and fields are the names of
// those fields that differ from the configured policy. These fields are put over the configured policy of this gateway;
// the others are as configured. If persist is set, it records the change.
func (c *Changes) PutPolicy(value json.RawMessage, fields []string, persist bool) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(value, &all); err != nil {
		return err
	}
	maps.DeleteFunc(all, func(name string, _ json.RawMessage) bool {
		return !slices.Contains(fields, name)
	})
	value, err := json.Marshal(all)
	if err != nil {
		return err
	}
	var o retry.Override
	if err := strict.DecodeJSON(value, &o); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err = c.changePolicy(o, &c.config.Policy, persist)
	return err
}
