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

// Policy decides to which targets requests may go. Check applies the policy to the target that a client requests. If
// this process connects to the target without a proxy, CheckAddr also applies the policy to the address of the
// target. A nil *Policy is the policy of an empty Config.
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
		return nil, inKey("allow", err)
	}
	if p.deny, err = ParseList(c.Deny); err != nil {
		return nil, inKey("deny", err)
	}
	return p, nil
}

// inKey adds the key of a list to an error of ParseList.
func inKey(key string, err error) error {
	e := err.(*RuleError)
	return &ConfigError{key + "[" + strconv.Itoa(e.Index) + "]", e}
}

// Denied reports that the policy denies a target.
type Denied struct {
	Rule string // such as `egress.deny "10.0.0.0/8"`, or "private address"
}

func (d *Denied) Error() string { return "the target is not allowed: " + d.Rule }

// smtp is the port of mail servers. A built-in rule denies this port, because open proxies are abused to send spam.
const smtp = 25

// The errors of the built-in rules and of Default.
var (
	errDefault = &Denied{`no rule of egress.allow holds for it, and egress.default is "deny"`}
	errSMTP    = &Denied{"port 25 (egress.allow can permit it)"}
)

// Check returns a *Denied if no request may go to the target name:port, otherwise nil. The parameter name is a name or
// an address in any spelling, without brackets. Check allocates nothing if there are no rules.
func (p *Policy) Check(name string, port uint16) error {
	if p == nil || p.deny.Empty() && p.allow.Empty() && !p.denyOthers {
		if port == smtp {
			return errSMTP
		}
		return nil
	}
	h := parseHost(name)
	if rule, ok := p.deny.match(&h, port); ok {
		return denied(rule)
	}
	if _, ok := p.allow.match(&h, port); ok {
		return nil
	}
	switch {
	case port == smtp:
		return errSMTP
	case p.denyOthers:
		return errDefault
	}
	return nil
}

// CheckAddr returns a *Denied if this process must not connect to the address of a target, otherwise nil. A special
// address (Special) is denied unless a rule of Config.Allow has this address or a network that contains it. A rule of
// Config.Allow with the target's name is not enough, because the owner of a name chooses the address to which the
// name resolves.
func (p *Policy) CheckAddr(to netip.AddrPort) error {
	addr, port := to.Addr(), to.Port()
	if p != nil {
		if rule, ok := p.deny.MatchAddr(addr, port); ok {
			return denied(rule)
		}
	}
	kind := Special(addr)
	if kind == "" {
		return nil
	}
	if p != nil {
		if _, ok := p.allow.MatchAddr(addr, port); ok {
			return nil
		}
	}
	return &Denied{kind + " (egress.allow can permit it)"}
}

func denied(rule string) error { return &Denied{fmt.Sprintf("egress.deny %q", rule)} }
