package egress

import (
	"fmt"
	"net/netip"
	"strconv"
)

// Config is the section [egress].
type Config struct {
	Allow   []string // rules for targets that are allowed in spite of Default and of the built-in rules
	Deny    []string // rules for targets that are denied; a rule of Deny takes precedence over the rules of Allow
	Default string   // for targets without a matching rule: DefaultAllow or DefaultDeny; "" is DefaultAllow
}

// The values of Config.Default.
const (
	DefaultAllow = "allow"
	DefaultDeny  = "deny"
)

// Policy decides to which targets requests may go. Check applies it to the target that a client requests, CheckAddr to
// the address to which this process connects without a proxy. A nil *Policy is the policy of an empty Config.
type Policy struct {
	allow, deny List
	denyOthers  bool // targets without a matching rule are denied
}

// ConfigError is an error in a key of Config.
type ConfigError struct {
	Key string // "allow[2]", "deny[0]" or "default"
	Err error
}

func (e *ConfigError) Error() string { return e.Key + ": " + e.Err.Error() }

// Unwrap returns the error without the key.
func (e *ConfigError) Unwrap() error { return e.Err }

// New returns the policy of c. An error is a *ConfigError.
func New(c Config) (*Policy, error) {
	p := &Policy{denyOthers: c.Default == DefaultDeny}
	if c.Default != "" && c.Default != DefaultAllow && c.Default != DefaultDeny {
		err := fmt.Errorf("is %q; it must be %q or %q", c.Default, DefaultAllow, DefaultDeny)
		return nil, &ConfigError{"default", err}
	}
	var err error
	if p.allow, err = ParseList(c.Allow); err != nil {
		return nil, errorInKey("allow", err)
	}
	if p.deny, err = ParseList(c.Deny); err != nil {
		return nil, errorInKey("deny", err)
	}
	return p, nil
}

// errorInKey adds the key of a list to an error of ParseList.
func errorInKey(key string, err error) error {
	e := err.(*RuleError)
	return &ConfigError{key + "[" + strconv.Itoa(e.Index) + "]", e}
}

// DeniedError reports which rule denies a target.
type DeniedError struct {
	Rule string // such as `egress.deny "10.0.0.0/8"`, or "private address"
}

func (d *DeniedError) Error() string { return "the target is not allowed: " + d.Rule }

// smtpPort is denied by a built-in rule, because open proxies are abused to send spam.
const smtpPort = 25

// The errors of the built-in rules and of Default.
var (
	errDefault = &DeniedError{`no rule of egress.allow holds for it, and egress.default is "deny"`}
	errSMTP    = &DeniedError{"port 25 (egress.allow can permit it)"}
)

// Check returns a *DeniedError if requests must not go to a target. The target's name may be an address, in any
// spelling without brackets. Check allocates nothing if there are no rules.
func (p *Policy) Check(name string, port uint16) error {
	if p == nil || p.deny.Empty() && p.allow.Empty() && !p.denyOthers {
		if port == smtpPort {
			return errSMTP
		}
		return nil
	}
	h := parseHost(name)
	if rule, ok := p.deny.match(&h, port); ok {
		return denyRuleError(rule)
	}
	if _, ok := p.allow.match(&h, port); ok {
		return nil
	}
	switch {
	case port == smtpPort:
		return errSMTP
	case p.denyOthers:
		return errDefault
	}
	return nil
}

// CheckAddr returns a *DeniedError if this process must not connect to the address of a target. A special address
// (SpecialKind) is denied, unless Config.Allow has a rule with this address or with a network that contains it. A rule
// with the target's name does not suffice, because the owner of the name chooses its address.
func (p *Policy) CheckAddr(to netip.AddrPort) error {
	addr, port := to.Addr(), to.Port()
	if p != nil {
		if rule, ok := p.deny.MatchAddr(addr, port); ok {
			return denyRuleError(rule)
		}
	}
	kind := SpecialKind(addr)
	if kind == "" {
		return nil
	}
	if p != nil {
		if _, ok := p.allow.MatchAddr(addr, port); ok {
			return nil
		}
	}
	return &DeniedError{kind + " (egress.allow can permit it)"}
}

func denyRuleError(rule string) error { return &DeniedError{fmt.Sprintf("egress.deny %q", rule)} }
