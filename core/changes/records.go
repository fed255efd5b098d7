package changes

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/state"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// The keys of records, or their beginnings.
const (
	policyKey = "policy"
	pluginKey = "plugin/" // followed by the use
	proxyKey  = "proxy/"  // followed by the id
)

// records reads and writes the records in a store.
type records struct {
	store   *state.Store
	version atomic.Uint64 // grows whenever a record, or its use, may have changed
}

func (r *records) write(set map[string]any) error {
	if err := r.store.Write(set); err != nil {
		return &NotRecordedError{err}
	}
	r.version.Add(1)
	return nil
}

func (r *records) delete(keys ...string) error {
	set := map[string]any{}
	for _, key := range keys {
		set[key] = nil
	}
	return r.write(set)
}

// errNoRecord is the error of the method get if there is no record. Any other error of get means that there is a record
// which this version of the program cannot use.
var errNoRecord = errors.New("there is no record")

func (r *records) get(key string, v any) error {
	record, exists := r.store.Get(key)
	if !exists {
		return errNoRecord
	}
	return json.Unmarshal(record.Value, v)
}

// check returns an error if this version of the program cannot use the record of a key.
func (r *records) check(key string) error {
	var err error
	id, isProxy := strings.CutPrefix(key, proxyKey)
	use, isPlugin := strings.CutPrefix(key, pluginKey)
	switch {
	case isProxy:
		_, err = r.proxy(id)
	case isPlugin:
		_, err = r.activation(use)
	case key == policyKey:
		_, err = r.policy()
	default:
		err = errors.New("this version makes no such changes")
	}
	return err
}

// logUnusable logs each record that this version of the program cannot use. The records stay: another version may have
// written them.
func (r *records) logUnusable(log *slog.Logger) {
	if r.store == nil {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(r.store.All())) {
		if err := r.check(key); err != nil {
			log.Error("a change by the API is not in force, because its record cannot be used: make the change again, "+
				"or delete the record with: whirlpool state clear --key KEY", slog.String("change", key),
				slog.String("file", r.store.Path()), slog.Any("error", err))
		}
	}
}

// activation is the record of a plugin that was activated through the API for one use, such as UseFirst.
type activation struct {
	Configured string `json:"configured"` // the plugin that the configuration named at the time of the change
	Active     string `json:"active"`
}

func (r *records) activation(use string) (a activation, err error) {
	if err = r.get(pluginKey+use, &a); err != nil {
		return a, err
	}
	if !slices.Contains(usesWithRecords, use) {
		return a, fmt.Errorf("%q is not a use of a plugin", use)
	}
	return a, nil
}

// usesWithRecords lists the uses of plugins that have a record. UseBackoff has none, because the record of the policy
// contains the backoff.
var usesWithRecords = []string{UseFirst, UseRetry, UseJudge}

// policyRecord is the record of the global policy.
type policyRecord struct {
	File   retry.Policy `json:"file"` // the configured policy at the time of the change
	Policy retry.Policy `json:"policy"`
}

// policies holds the two policies of a policyRecord.
type policies struct{ file, policy retry.Policy }

func (r *records) policy() (p policies, err error) {
	var raw struct {
		File   json.RawMessage `json:"file"`
		Policy json.RawMessage `json:"policy"`
	}
	if err = r.get(policyKey, &raw); err != nil {
		return p, err
	}
	if p.file, err = decodePolicy(raw.File); err != nil {
		return p, fmt.Errorf("the policy of the configuration at that time: %w", err)
	}
	p.policy, err = decodePolicy(raw.Policy)
	return p, err
}

// decodePolicy decodes the JSON of a policy. Fields that the JSON lacks have their defaults.
func decodePolicy(data []byte) (p retry.Policy, err error) {
	var o retry.Override
	if err := strict.DecodeJSON(data, &o); err != nil {
		return p, err
	}
	p = retry.DefaultPolicy()
	p = p.Merge(o)
	err = p.Validate(func(string) bool { return true })
	return p, err
}

// proxyRecord is the record of a proxy: all its fields that the API can change.
type proxyRecord struct {
	// EntryFingerprint identifies the entry of the configuration that was changed or removed; see
	// fingerprinter.entryFingerprint. It is "" if the API has added the proxy.
	EntryFingerprint   string               `json:"base,omitempty"`
	AddressFingerprint upstream.Fingerprint `json:"entry,omitzero"`    // fingerprint of the entry's address
	Removed            bool                 `json:"removed,omitempty"` // if set, the following fields are not used

	Scheme      string              `json:"scheme,omitempty"`
	Host        string              `json:"host,omitempty"`
	Username    string              `json:"username,omitempty"`
	Password    string              `json:"password,omitempty"`
	Region      string              `json:"region,omitempty"`
	Tags        []string            `json:"tags,omitempty"`
	Weight      float64             `json:"weight,omitempty"`
	Cost        float64             `json:"cost,omitempty"`
	MaxInFlight int                 `json:"max_in_flight,omitempty"`
	Rate        float64             `json:"rate,omitempty"`
	MinInterval time.Duration       `json:"min_interval,omitempty"` // ns
	BytesPerDay int64               `json:"bytes_per_day,omitempty"`
	Tier        int                 `json:"tier,omitempty"`
	Vendor      string              `json:"vendor,omitempty"`
	Price       traffic.Price       `json:"price,omitzero"`
	Auth        string              `json:"auth,omitempty"`
	NoReuse     bool                `json:"no_reuse,omitempty"`
	Metadata    map[string]string   `json:"metadata,omitempty"`
	OwnErrors   []upstream.OwnError `json:"own_error,omitempty"`
}

func newProxyRecord(s *upstream.Spec) proxyRecord {
	e := s.Extra()
	return proxyRecord{
		Scheme: s.Address.Scheme, Host: s.Address.Host, Username: s.Address.Username,
		Password: s.Address.Password.Reveal(), Region: s.Region, Tags: s.Tags, Weight: s.Weight, Cost: s.Cost,
		MaxInFlight: e.MaxInFlight, Rate: e.Rate, MinInterval: e.MinInterval, BytesPerDay: e.BytesPerDay,
		Tier: s.Tier, Vendor: e.Vendor, Price: e.Price,
		Auth: e.Auth, NoReuse: e.NoReuse, Metadata: e.Metadata, OwnErrors: e.OwnErrors,
	}
}

// applyTo sets those fields of s that the API can change.
func (r *proxyRecord) applyTo(s *upstream.Spec) {
	s.Address = upstream.Address{
		Scheme: r.Scheme, Host: r.Host, Username: r.Username, Password: upstream.Secret(r.Password),
	}
	s.Region, s.Tags, s.Weight, s.Cost, s.Tier = r.Region, r.Tags, r.Weight, r.Cost, r.Tier
	s.ChangeExtras(func(e *upstream.Extras) {
		e.MaxInFlight, e.Rate, e.MinInterval, e.BytesPerDay = r.MaxInFlight, r.Rate, r.MinInterval, r.BytesPerDay
		e.Vendor, e.Price, e.Auth, e.NoReuse = r.Vendor, r.Price, r.Auth, r.NoReuse
		e.Metadata, e.OwnErrors = r.Metadata, r.OwnErrors
	})
}

func (r *proxyRecord) spec(id string) upstream.Spec {
	s := upstream.Spec{ID: id, Source: upstream.SourceAPI}
	r.applyTo(&s)
	return s
}

func (r *proxyRecord) changeKind() string {
	switch {
	case r.Removed:
		return "removed"
	case r.EntryFingerprint == "":
		return "added"
	}
	return "changed"
}

// setEntry sets the fields that identify the entry of the configuration to which the record belongs.
func (r *proxyRecord) setEntry(entry *upstream.Spec, f *fingerprinter) {
	r.EntryFingerprint, r.AddressFingerprint = f.entryFingerprint(entry), f.addressFingerprint(entry.Address)
}

func (r *records) proxy(id string) (p proxyRecord, err error) {
	if err = r.get(proxyKey+id, &p); err != nil || p.Removed {
		return p, err
	}
	spec := p.spec(id)
	return p, upstream.CheckSpec(&spec)
}

// proxyRecords are the records of proxies, by id, that this version of the program can use.
type proxyRecords map[string]proxyRecord

func (r *records) proxies() proxyRecords {
	out := proxyRecords{}
	for _, id := range r.proxyIDs() {
		if p, err := r.proxy(id); err == nil {
			out[id] = p
		}
	}
	return out
}

// proxyIDs returns the ids of all proxies that have a record.
func (r *records) proxyIDs() (ids []string) {
	if r.store == nil {
		return nil
	}
	for key := range r.store.All() {
		if id, isProxy := strings.CutPrefix(key, proxyKey); isProxy {
			ids = append(ids, id)
		}
	}
	return ids
}

// addedProxies returns the proxies that the API has added, in the order of their ids.
func (r proxyRecords) addedProxies() (specs []upstream.Spec) {
	for _, id := range slices.Sorted(maps.Keys(r)) {
		if p := r[id]; p.EntryFingerprint == "" && !p.Removed {
			specs = append(specs, p.spec(id))
		}
	}
	return specs
}

// appliedRecords is the result of proxyRecords.apply.
type appliedRecords struct {
	specs        []upstream.Spec
	superseded   []string       // keys of the records that do not apply any more
	replacements map[string]any // new records, by key, that replace records with an earlier key
}

// apply makes the recorded changes to those configured proxies whose entry has not changed since the record was
// written. A fingerprint of the entry shows this. A fingerprint that was made with an earlier key cannot be compared:
// then the entry counts as unchanged.
func (r proxyRecords) apply(configured []upstream.Spec, f *fingerprinter) appliedRecords {
	if len(r) == 0 {
		return appliedRecords{specs: slices.Clip(configured)}
	}
	out := appliedRecords{specs: make([]upstream.Spec, 0, len(configured)), replacements: map[string]any{}}
	for i := range configured {
		spec := configured[i]
		p, isRecorded := r[spec.ID]
		hasOtherKey := isRecorded && p.EntryFingerprint != "" && !f.hasKeyOf(p.EntryFingerprint)
		switch {
		case !isRecorded:
		case !hasOtherKey && p.EntryFingerprint != f.entryFingerprint(&configured[i]):
			out.superseded = append(out.superseded, proxyKey+spec.ID)
		default:
			changed := spec
			if !p.Removed {
				p.applyTo(&changed)
			}
			if upstream.CheckSpec(&changed) != nil { // the recorded change is not valid for this entry
				out.superseded = append(out.superseded, proxyKey+spec.ID)
				break
			}
			if hasOtherKey {
				p.setEntry(&configured[i], f)
				out.replacements[proxyKey+spec.ID] = p
			}
			if p.Removed {
				continue
			}
			spec = changed
		}
		out.specs = append(out.specs, spec)
	}
	return out
}
