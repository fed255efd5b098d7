package upstream

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/limit"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
)

// Spec is the configuration of one proxy.
type Spec struct {
	ID      string
	Address Address
	Region  string
	Tags    []string // for rules: words of at most 64 bytes
	Weight  float64  // > 0; 0 means 1
	Cost    float64  // >= 0
	Tier    int      // proxies of a lower tier are used first; 0 to MaxTier
	Source  string   // "config", "api", or the name of a proxy list
	Extras  *Extras  // nil if all of them are zero; read them with Extra
}

// Extras are the settings that few proxies have. They are not fields of Spec, because a long list has many proxies.
type Extras struct {
	MaxInFlight int     // 0 for no limit, as in the next three fields
	Rate        float64 // attempts a second; see limit.Limit
	MinInterval time.Duration
	BytesPerDay int64
	Vendor      string        // label for costs; "" for none
	Price       traffic.Price // for the costs; not used for the selection
	Auth        string        // AuthDigest, or "" for Basic until the proxy asks for Digest
	NoReuse     bool          // each attempt opens a new connection: no idle connection is used or kept
	TLS         *TLS          // of an https:// proxy; nil for the defaults
	Metadata    map[string]string
	Breaker     *breaker.Config // nil for the settings of the pool
	OwnErrors   []OwnError      // rules that recognize the proxy's own error pages
	IDTemplate  IDTemplate      // for the id of a proxy without one; "" for host:port
}

// Extra returns a copy of Extras, or zero Extras if there are none.
func (s *Spec) Extra() Extras {
	if s.Extras == nil {
		return Extras{}
	}
	return *s.Extras
}

// AllowsReuse reports whether an idle connection to the proxy may be used and kept.
func (s *Spec) AllowsReuse() bool { return s.Extras == nil || !s.Extras.NoReuse }

// DigestOnly reports whether Auth is AuthDigest.
func (s *Spec) DigestOnly() bool { return s.Extras != nil && s.Extras.Auth == AuthDigest }

// ErrorRules returns OwnErrors.
func (s *Spec) ErrorRules() []OwnError {
	if s.Extras == nil {
		return nil
	}
	return s.Extras.OwnErrors
}

// ChangeExtras calls f with a copy of Extras, which then replaces Extras.
func (s *Spec) ChangeExtras(f func(*Extras)) {
	changed := s.Extra()
	f(&changed)
	if s.Extras = &changed; reflect.ValueOf(changed).IsZero() {
		s.Extras = nil
	}
}

// AuthDigest is the Extras.Auth of an HTTP or HTTPS proxy that never gets the password: the gateway sends credentials
// by Digest only (RFC 7616).
const AuthDigest = "digest"

// OwnError is a rule that recognizes an error page that the proxy writes itself. At least one field must be set. A page
// must match all fields that are set.
type OwnError struct {
	Status int    // 400 to 999; 0 for any status
	Header string // "Name": the field is present; "Name: text": its value contains the text; "" for any header
	Body   string // a text in the first 8 KiB of the body; "" for any body
}

// Limits of the own_error rules of a proxy.
const (
	MaxOwnErrors    = 32
	maxOwnErrorText = 1024 // bytes of a header or body
)

// check calls bad with a message for each wrong field of the rule. The part is the name of the field, or "" for the
// whole rule.
func (o *OwnError) check(bad func(part, msg string)) {
	name, _, _ := strings.Cut(o.Header, ":")
	if *o == (OwnError{}) {
		bad("", "names no status, header or body")
	}
	if o.Status != 0 && (o.Status < 400 || o.Status > 999) {
		bad("status", fmt.Sprintf("is %d; it must be 400 to 999", o.Status))
	}
	switch {
	case len(o.Header) > maxOwnErrorText:
		bad("header", fmt.Sprintf("has more than %d bytes", maxOwnErrorText))
	case o.Header != "" && (name == "" || strings.ContainsFunc(name, isForbiddenInFieldName)):
		bad("header", "must be the name of a header field, or \"Name: text\"")
	}
	if len(o.Body) > maxOwnErrorText {
		bad("body", fmt.Sprintf("has more than %d bytes", maxOwnErrorText))
	}
}

// isForbiddenInFieldName reports whether r is not allowed in a field name (RFC 9110, section 5.6.2).
func isForbiddenInFieldName(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
}

func (s *Spec) equal(o *Spec) bool {
	return s.ID == o.ID && s.Address == o.Address && s.Region == o.Region && slices.Equal(s.Tags, o.Tags) &&
		s.Weight == o.Weight && s.Cost == o.Cost && s.Tier == o.Tier && s.Source == o.Source &&
		s.limit() == o.limit() && equalExtras(s.Extra(), o.Extra())
}

// equalExtras reports whether all fields except the limits and the IDTemplate are equal.
func equalExtras(e, o Extras) bool {
	return e.Vendor == o.Vendor && e.Price == o.Price && e.Auth == o.Auth && e.NoReuse == o.NoReuse &&
		maps.Equal(e.Metadata, o.Metadata) && e.TLS.equal(o.TLS) &&
		(e.Breaker == nil) == (o.Breaker == nil) && (e.Breaker == nil || *e.Breaker == *o.Breaker) &&
		slices.Equal(e.OwnErrors, o.OwnErrors)
}

// Limits of the fields of a Spec.
const (
	MaxTier   = 100
	maxVendor = 64 // bytes
	maxPrice  = 1e12
)

func isControl(r rune) bool { return r < ' ' || r == 0x7f || r == '\ufffd' }

// limit returns the proxy's own limits.
func (s *Spec) limit() limit.Limit {
	e := s.Extra()
	return limit.Limit{
		MaxInFlight: e.MaxInFlight, Rate: e.Rate, MinInterval: e.MinInterval, BytesPerDay: e.BytesPerDay,
	}
}

// breaker returns the settings of the proxy's breaker.
func (s *Spec) breaker(defaults *breaker.Config) *breaker.Config {
	if s.Extra().Breaker == nil {
		return defaults
	}
	own := s.Extra().Breaker.WithProbeTimeoutOf(*defaults)
	return &own
}

// SourceConfig is the Source of a proxy of the configuration that is not from a proxy list.
const SourceConfig = "config"

// SourceAPI is the Source of proxies added through the API. A reload of the configuration does not
// change them.
const SourceAPI = "api"

// metricsID is an id that no proxy may have.
const metricsID = "metrics"

// MaxIDLength is the maximal length of an id, in bytes.
const MaxIDLength = 256

// ErrSpec is wrapped by every error about a proxy's configuration.
var ErrSpec = errors.New("invalid proxy")

// check returns the first error in a list of proxies with ids.
func check(specs []*Spec) error {
	ids := make(map[string]struct{}, len(specs))
	for _, s := range specs {
		if _, twice := ids[s.ID]; twice {
			return &DuplicateError{s.ID}
		}
		if s.ID == "" {
			return fmt.Errorf("%w: it has no id", ErrSpec)
		}
		if err := CheckSpec(s); err != nil {
			return fmt.Errorf("%q: %w", s.ID, err)
		}
		ids[s.ID] = struct{}{}
	}
	return nil
}

// Check returns the first error in a list of proxies. Ids may be missing.
func Check(specs []Spec) error {
	seen := map[string]struct{}{}
	for i := range specs {
		s := &specs[i]
		if _, twice := seen[s.ID]; twice {
			return &DuplicateError{s.ID}
		}
		if err := CheckSpec(s); err != nil {
			return fmt.Errorf("%q: %w", cmp.Or(s.ID, s.IDBase()), err)
		}
		if s.ID != "" {
			seen[s.ID] = struct{}{}
		}
	}
	return nil
}

// SpecError reports an invalid field of a proxy's configuration. It wraps ErrSpec.
type SpecError struct {
	Field string // the key, such as weight or own_error[0].status
	Msg   string // contains the field's name
}

func (e *SpecError) Error() string { return ErrSpec.Error() + ": " + e.Msg }

// Unwrap returns ErrSpec.
func (e *SpecError) Unwrap() error { return ErrSpec }

// DuplicateError reports that two proxies have the same id. It wraps ErrSpec.
type DuplicateError struct{ ID string }

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("%v: the id %q is used twice", ErrSpec, e.ID)
}

// Unwrap returns ErrSpec.
func (e *DuplicateError) Unwrap() error { return ErrSpec }

// CheckSpec returns the first error in a proxy's configuration. The id may be missing. All errors wrap
// ErrSpec; an error of a field is a *SpecError.
func CheckSpec(s *Spec) error {
	if faults := SpecFaults(s); len(faults) > 0 {
		return faults[0]
	}
	return nil
}

// SpecFaults returns all errors in the fields of a proxy's configuration, at most one for each field. The id may be
// missing.
func SpecFaults(s *Spec) (faults []*SpecError) {
	bad := func(field, format string, args ...any) {
		faults = append(faults, &SpecError{field, fmt.Sprintf(format, args...)})
	}
	e := s.Extra()
	switch {
	case s.ID == metricsID:
		bad("id", "the id \"metrics\" is taken by the API's /circuit-breakers/metrics")
	case s.ID == DirectID && s.Address.Scheme != Direct:
		bad("id", "the id \"direct\" stands for requests without a proxy; choose another one")
	case len(s.ID) > MaxIDLength:
		bad("id", "an id has at most %d bytes, this one %d", MaxIDLength, len(s.ID))
	case strings.ContainsFunc(s.ID, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\ufffd' }):
		bad("id", "the id %q has a control character", s.ID)
	}
	if s.Weight < 0 || s.Weight > 1e6 || s.Weight != s.Weight {
		bad("weight", "weight is %v; it must be above 0, at most 1000000", s.Weight)
	}
	if s.Cost < 0 || s.Cost > 1e12 || s.Cost != s.Cost {
		bad("cost", "cost is %v; it must be 0 to 1e12", s.Cost)
	}
	switch {
	case s.Address.Scheme == "":
		bad("url", "url is missing")
	case e.TLS != nil && s.Address.Scheme != HTTPS:
		bad("url", "ca_file, insecure, cert and key are for https:// proxies")
	}
	switch {
	case e.Auth != "" && e.Auth != AuthDigest:
		bad("auth", "auth is %q; it must be \"digest\" or \"\"", e.Auth)
	case e.Auth != "" && s.Address.Scheme != HTTP && s.Address.Scheme != HTTPS:
		bad("auth", "auth is for http:// and https:// proxies")
	}
	if s.Tier < 0 || s.Tier > MaxTier {
		bad("tier", "tier is %d; it must be 0 to %d", s.Tier, MaxTier)
	}
	if len(e.Vendor) > maxVendor || strings.ContainsFunc(e.Vendor, isControl) {
		bad("vendor", "vendor must have at most %d bytes and no control character", maxVendor)
	}
	if !(e.Price.Request >= 0 && e.Price.Request <= maxPrice) {
		bad("cost_per_request", "cost_per_request is %v; it must be 0 to 1e12", e.Price.Request)
	}
	if !(e.Price.GB >= 0 && e.Price.GB <= maxPrice) {
		bad("cost_per_gb", "cost_per_gb is %v; it must be 0 to 1e12", e.Price.GB)
	}
	s.limit().Check(func(field, msg string) { bad(field, "%s", msg) })
	checkTags(s.Tags, func(i int, msg string) { bad(fmt.Sprintf("tags[%d]", i), "tags[%d] %s", i, msg) })
	if e.Breaker != nil {
		if err := e.Breaker.Validate(); err != nil {
			bad("breaker", "breaker: %v", err)
		}
	}
	if len(e.OwnErrors) > MaxOwnErrors {
		bad("own_error", "own_error has %d rules; at most %d are allowed", len(e.OwnErrors), MaxOwnErrors)
		return faults
	}
	for i := range e.OwnErrors {
		e.OwnErrors[i].check(func(part, msg string) {
			field := fmt.Sprintf("own_error[%d]", i)
			if part != "" {
				field += "." + part
			}
			bad(field, "%s %s", field, msg)
		})
	}
	return faults
}
