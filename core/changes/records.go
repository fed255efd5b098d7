package changes

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/state"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// The keys of records, or their beginnings.
const (
	policyKey = "policy"
	pluginKey = "plugin/" // followed by the use
	proxyKey  = "proxy/"  // followed by the id
)

func cutKey(key, prefix string) (rest string, ok bool) { return strings.CutPrefix(key, prefix) }

// records reads and writes the records of a store.
type records struct{ store *state.Store }

func (r *records) write(set map[string]any) error {
	if err := r.store.Write(set); err != nil {
		return &NotKeptError{err}
	}
	return nil
}

func (r *records) delete(keys ...string) error {
	set := map[string]any{}
	for _, key := range keys {
		set[key] = nil
	}
	return r.write(set)
}

// get decodes the record of a key. ok is false if there is none, or if it is not valid.
func (r *records) get(key string, v any) (ok bool) {
	record, held := r.store.Get(key)
	return held && json.Unmarshal(record.Value, v) == nil
}

// activation is the record of a plugin in use.
type activation struct {
	Configured string `json:"configured"` // the plugin that the configuration named at the time of the change
	Active     string `json:"active"`
}

func (r *records) activation(use string) (a activation, ok bool) {
	ok = r.get(pluginKey+use, &a)
	return a, ok
}

// policyRecord is the record of the global policy.
type policyRecord struct {
	File   retry.Policy `json:"file"` // of the configuration at the time of the change
	Policy retry.Policy `json:"policy"`
}

// policies are the two policies of a record.
type policies struct{ file, policy retry.Policy }

func (r *records) policy() (p policies, ok bool) {
	var raw struct {
		File   json.RawMessage `json:"file"`
		Policy json.RawMessage `json:"policy"`
	}
	if !r.get(policyKey, &raw) {
		return p, false
	}
	var valid [2]bool
	p.file, valid[0] = decodePolicy(raw.File)
	p.policy, valid[1] = decodePolicy(raw.Policy)
	return p, valid[0] && valid[1]
}

// decodePolicy decodes the JSON of a policy. Fields that it lacks have their defaults.
func decodePolicy(data []byte) (p retry.Policy, ok bool) {
	var o retry.Override
	if strict.DecodeJSON(data, &o) != nil {
		return p, false
	}
	p = retry.DefaultPolicy()
	p = p.Merge(o)
	return p, p.Validate(func(string) bool { return true }) == nil
}

// proxyRecord is the record of a proxy: all its fields that the API can change.
type proxyRecord struct {
	// Base identifies the entry of the configuration that was changed or removed; see baseOf. It is "" for a proxy that
	// was added.
	Base    string `json:"base,omitempty"`
	Removed bool   `json:"removed,omitempty"` // then the following fields are not used

	Scheme      string              `json:"scheme,omitempty"`
	Host        string              `json:"host,omitempty"`
	Username    string              `json:"username,omitempty"`
	Password    string              `json:"password,omitempty"`
	Region      string              `json:"region,omitempty"`
	Weight      float64             `json:"weight,omitempty"`
	Cost        float64             `json:"cost,omitempty"`
	MaxInFlight int                 `json:"max_in_flight,omitempty"`
	NoReuse     bool                `json:"no_reuse,omitempty"`
	Metadata    map[string]string   `json:"metadata,omitempty"`
	OwnErrors   []upstream.OwnError `json:"own_error,omitempty"`
}

func newProxyRecord(s *upstream.Spec) proxyRecord {
	return proxyRecord{
		Scheme: s.Address.Scheme, Host: s.Address.Host, Username: s.Address.Username,
		Password: s.Address.Password.Reveal(), Region: s.Region, Weight: s.Weight, Cost: s.Cost,
		MaxInFlight: s.MaxInFlight, NoReuse: s.NoReuse, Metadata: s.Metadata, OwnErrors: s.OwnErrors,
	}
}

// set sets the fields of s that the API can change.
func (r *proxyRecord) set(s *upstream.Spec) {
	s.Address = upstream.Address{
		Scheme: r.Scheme, Host: r.Host, Username: r.Username, Password: upstream.Secret(r.Password),
	}
	s.Region, s.Weight, s.Cost, s.MaxInFlight, s.NoReuse = r.Region, r.Weight, r.Cost, r.MaxInFlight, r.NoReuse
	s.Metadata, s.OwnErrors = r.Metadata, r.OwnErrors
}

// spec returns the proxy of a record that adds one.
func (r *proxyRecord) spec(id string) upstream.Spec {
	s := upstream.Spec{ID: id, Source: upstream.SourceAPI}
	r.set(&s)
	return s
}

// change names the kind of the change.
func (r *proxyRecord) change() string {
	switch {
	case r.Removed:
		return "removed"
	case r.Base == "":
		return "added"
	}
	return "changed"
}

// baseOf returns a hash of the fields that a record has; "" for nil.
func baseOf(s *upstream.Spec) string {
	if s == nil {
		return ""
	}
	r := newProxyRecord(s)
	if r.Weight == 0 {
		r.Weight = 1
	}
	if len(r.Metadata) == 0 {
		r.Metadata = nil
	}
	data, err := json.Marshal(r)
	if err != nil {
		panic("a proxy that cannot be encoded: " + err.Error()) // a checked weight or cost is a finite number
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:12])
}

func (r *records) proxy(id string) (p proxyRecord, ok bool) {
	ok = r.get(proxyKey+id, &p)
	return p, ok
}

// proxyRecords are the valid records of proxies by id.
type proxyRecords map[string]proxyRecord

// proxies returns the records of all proxies. Those that this version cannot use are logged.
func (r *records) proxies(log *slog.Logger) proxyRecords {
	out := proxyRecords{}
	for key := range r.store.All() {
		id, isProxy := cutKey(key, proxyKey)
		if !isProxy {
			continue
		}
		p, ok := r.proxy(id)
		if spec := p.spec(id); ok && !p.Removed {
			ok = upstream.CheckSpec(&spec) == nil
		}
		if !ok {
			log.Warn("the record of a change by the API is not valid, and not used", slog.String("change", key))
			continue
		}
		out[id] = p
	}
	return out
}

// added returns the proxies that were added, by id.
func (r proxyRecords) added() (specs []upstream.Spec) {
	for _, id := range slices.Sorted(maps.Keys(r)) {
		if p := r[id]; p.Base == "" && !p.Removed {
			specs = append(specs, p.spec(id))
		}
	}
	return specs
}

// apply makes the recorded changes to the proxies of the configuration. superseded are the keys of the
// records of proxies whose entry in the configuration is not the one that was changed.
func (r proxyRecords) apply(configured []upstream.Spec) (specs []upstream.Spec, superseded []string) {
	specs = make([]upstream.Spec, 0, len(configured))
	for i := range configured {
		spec := configured[i]
		p, recorded := r[spec.ID]
		switch {
		case !recorded:
		case p.Base != baseOf(&configured[i]):
			superseded = append(superseded, proxyKey+spec.ID)
		case p.Removed:
			continue
		default:
			changed := spec
			p.set(&changed)
			if upstream.CheckSpec(&changed) != nil { // the entry has other fields now, which do not fit the change
				superseded = append(superseded, proxyKey+spec.ID)
				break
			}
			spec = changed
		}
		specs = append(specs, spec)
	}
	return specs, superseded
}
