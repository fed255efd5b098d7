package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
)

// Rule is one entry of [[rules]]; see rules.Rule.
type Rule struct {
	Name   string `koanf:"name" json:"name,omitempty"`
	Preset string `koanf:"preset" json:"preset,omitempty"`
	When   When   `koanf:"when" json:"when"`
	Then   Then   `koanf:"then" json:"then"`
}

// When is the condition of a rule; see rules.Conditions.
type When struct {
	Host   TextList          `koanf:"host" json:"host,omitempty"`
	Port   Numbers           `koanf:"port" json:"port,omitempty"`
	Path   TextList          `koanf:"path" json:"path,omitempty"`
	Method TextList          `koanf:"method" json:"method,omitempty"`
	User   TextList          `koanf:"user" json:"user,omitempty"`
	Status Numbers           `koanf:"status" json:"status,omitempty"`
	Header map[string]string `koanf:"header" json:"header,omitempty"`
	Body   string            `koanf:"body" json:"body,omitempty"`
	Error  string            `koanf:"error" json:"error,omitempty"`
}

// Then is the action of a rule; see rules.Actions.
type Then struct {
	Retry       bool     `koanf:"retry" json:"retry,omitempty"`
	OtherProxy  bool     `koanf:"other_proxy" json:"other_proxy,omitempty"`
	Rest        Duration `koanf:"rest" json:"rest,omitempty" range:"1s,24h"`
	Ban         Duration `koanf:"ban" json:"ban,omitempty" range:"1s,720h"`
	Final       bool     `koanf:"final" json:"final,omitempty"`
	Blame       string   `koanf:"blame" json:"blame,omitempty"`
	MaxAttempts int      `koanf:"max_attempts" json:"max_attempts,omitempty" range:"2,10"`

	// The actions of routing rules; see rules.Routing.
	Pool      bool           `koanf:"pool" json:"pool,omitempty"`
	Tag       string         `koanf:"tag" json:"tag,omitempty"`
	Region    string         `koanf:"region" json:"region,omitempty"`
	Prefer    bool           `koanf:"prefer" json:"prefer,omitempty"`
	Direct    bool           `koanf:"direct" json:"direct,omitempty"`
	Deny      bool           `koanf:"deny" json:"deny,omitempty"`
	Policy    map[string]any `koanf:"policy" json:"policy,omitempty"` // keys of [retry], and the key attempt_timeout
	Scorer    string         `koanf:"scorer" json:"scorer,omitempty"`
	Intercept bool           `koanf:"intercept" json:"intercept,omitempty"`
	Interim   bool           `koanf:"interim" json:"interim,omitempty"`

	policy *rules.Policy // decoded from Policy; nil if Policy is nil
}

// TextList is a list of texts. In the configuration it is a text or a list of texts.
type TextList []string

// DecodeValue implements strict.ValueDecoder.
func (t *TextList) DecodeValue(from any) error {
	for _, item := range listItems(from) {
		text, ok := item.(string)
		if !ok {
			return errors.New("must be a text or a list of texts")
		}
		*t = append(*t, text)
	}
	return checkNotEmpty(len(*t))
}

// Numbers is a list of numbers, and of ranges of numbers such as "400-499". In the configuration, a single number or
// range need not be a list.
type Numbers []string

// DecodeValue implements strict.ValueDecoder.
func (n *Numbers) DecodeValue(from any) error {
	for _, item := range listItems(from) {
		switch v := item.(type) {
		case int64:
			*n = append(*n, strconv.FormatInt(v, 10))
		case string:
			*n = append(*n, v)
		default:
			return fmt.Errorf(`must be a number such as 403, a range such as "400-499", or a list of them`)
		}
	}
	return checkNotEmpty(len(*n))
}

func listItems(from any) []any {
	if list, ok := from.([]any); ok {
		return list
	}
	return []any{from}
}

func checkNotEmpty(n int) error {
	if n == 0 {
		return errors.New("is an empty list; remove the key, or name a value")
	}
	return nil
}

// ruleList returns the rules of [[rules]] in the form that the engine takes.
func (c *Config) ruleList() []rules.Rule {
	list := make([]rules.Rule, 0, len(c.Rules))
	for _, r := range c.Rules {
		w, t := r.When, r.Then
		list = append(list, rules.Rule{
			Name: r.Name, Preset: r.Preset,
			When: rules.Conditions{Hosts: w.Host, Ports: w.Port, Paths: w.Path, Methods: w.Method, Users: w.User,
				Statuses: w.Status, Headers: w.Header, Body: w.Body, Error: w.Error},
			Then: rules.Actions{
				Retry: t.Retry, OtherProxy: t.OtherProxy, Rest: time.Duration(t.Rest),
				Ban: time.Duration(t.Ban), Final: t.Final, Blame: t.Blame,
				MaxAttempts: t.MaxAttempts,
				Routing: rules.Routing{Pool: t.Pool, Tag: t.Tag, Region: t.Region, Prefer: t.Prefer, Direct: t.Direct,
					Deny: t.Deny, Policy: t.policy, Scorer: t.Scorer, Intercept: t.Intercept,
					Interim: t.Interim},
			},
		})
	}
	return list
}

// checkRules decodes the policies of [[rules]], and checks the rules.
func (l *loader) checkRules() {
	for i := range l.cfg.Rules {
		if t := &l.cfg.Rules[i].Then; t.Policy != nil {
			t.policy = l.decodeRulePolicy(fmt.Sprintf("rules[%d].then.policy", i), t.Policy)
		}
	}
	_, err := rules.Compile(l.cfg.ruleList(), nil)
	joined, ok := err.(interface{ Unwrap() []error })
	if ok {
		for _, err := range joined.Unwrap() {
			var wrong *rules.Error
			if errors.As(err, &wrong) && !l.hasFault(wrong.Path()) {
				l.addFault(wrong.Path(), wrong.Value, wrong.Msg)
			}
		}
	}
	l.checkRuleUsers()
}

// hasFault reports whether there is a fault of the key or, if the key is a table, of a key in this table.
func (l *loader) hasFault(key string) bool {
	return slices.ContainsFunc(l.faults, func(f Fault) bool {
		return f.Key == key || strings.HasPrefix(f.Key, key+".")
	})
}

func (l *loader) decodeRulePolicy(path string, table map[string]any) *rules.Policy {
	p, fields := &rules.Policy{}, maps.Clone(table)
	if value, set := fields[attemptTimeout]; set {
		delete(fields, attemptTimeout)
		var own struct {
			AttemptTimeout float64 `koanf:"attempt_timeout"`
		}
		l.decode(path, strict.TOML, map[string]any{attemptTimeout: value}, &own)
		p.AttemptTimeout = own.AttemptTimeout
	}
	for key := range fields {
		if similar := strict.DidYouMean(key, []string{attemptTimeout}); similar != "" {
			l.addFault(path+"."+key, nil, "unknown field"+similar)
			delete(fields, key)
		}
	}
	l.decodeOverride(path, fields, &p.Override)
	return p
}

const attemptTimeout = "attempt_timeout"

// checkRuleUsers adds a fault for each user that a rule names but that does not exist.
func (l *loader) checkRuleUsers() {
	users := make([]string, 0, len(l.cfg.Gateway.Users))
	for _, u := range l.cfg.Gateway.Users {
		users = append(users, u.Name)
	}
	for i, r := range l.cfg.Rules {
		for k, name := range r.When.User {
			key := fmt.Sprintf("rules[%d].when.user", i)
			if len(r.When.User) > 1 {
				key = fmt.Sprintf("%s[%d]", key, k)
			}
			switch {
			case len(users) == 0:
				l.addFault(key, name, "holds for no request, because there are no [[gateway.users]]")
			case !strings.Contains(name, "*") && !slices.Contains(users, name):
				l.addFault(key, name, "is not the name of one of [[gateway.users]]"+strict.DidYouMean(name, users))
			}
		}
	}
}

// warnOfRuleProxies adds a warning for each tag or region that a rule names and no proxy has. This is not a fault,
// because such a proxy may be added through the API later.
func (l *loader) warnOfRuleProxies() {
	if len(l.cfg.Rules) == 0 {
		return
	}
	var tags, regions []string
	hasRegion := func(name string) bool {
		return slices.ContainsFunc(regions, func(r string) bool { return core.RegionHash(r) == core.RegionHash(name) })
	}
	for i := range l.cfg.specs {
		s := &l.cfg.specs[i]
		tags = append(tags, s.Tags...)
		if s.Address.AnyRegion() || l.cfg.geo != nil {
			regions = nil
			break
		}
		regions = append(regions, s.Region)
	}
	for i, r := range l.cfg.Rules {
		key := fmt.Sprintf("rules[%d].then", i)
		if tag := r.Then.Tag; tag != "" && !slices.Contains(tags, tag) {
			l.addWarning(key+".tag", "no configured proxy has the tag "+tag+strict.DidYouMean(tag, tags))
		}
		if region := r.Then.Region; region != "" && len(regions) > 0 && !hasRegion(region) {
			l.addWarning(key+".region",
				"no configured proxy is of the region "+region+strict.DidYouMean(region, regions))
		}
	}
}
