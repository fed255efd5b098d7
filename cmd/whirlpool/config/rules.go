package config

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/rules"
)

// Rule is one entry of [[rules]]; see rules.Rule.
type Rule struct {
	Preset string `koanf:"preset" json:"preset,omitempty"`
	When   When   `koanf:"when" json:"when"`
	Then   Then   `koanf:"then" json:"then"`
}

// When is the condition of a rule; see rules.When.
type When struct {
	Host   Texts             `koanf:"host" json:"host,omitempty"`
	Method Texts             `koanf:"method" json:"method,omitempty"`
	Status Statuses          `koanf:"status" json:"status,omitempty"`
	Header map[string]string `koanf:"header" json:"header,omitempty"`
	Body   string            `koanf:"body" json:"body,omitempty"`
	Error  string            `koanf:"error" json:"error,omitempty"`
}

// Then is the action of a rule; see rules.Then.
type Then struct {
	Retry      bool     `koanf:"retry" json:"retry,omitempty"`
	OtherProxy bool     `koanf:"other_proxy" json:"other_proxy,omitempty"`
	Rest       Duration `koanf:"rest" json:"rest,omitempty" range:"1s,24h"`
	Ban        Duration `koanf:"ban" json:"ban,omitempty" range:"1s,720h"`
	Final      bool     `koanf:"final" json:"final,omitempty"`
	Blame      string   `koanf:"blame" json:"blame,omitempty"`
}

// Texts is a text or a list of texts.
type Texts []string

// DecodeValue implements strict.Value.
func (t *Texts) DecodeValue(from any) error {
	for _, item := range items(from) {
		text, ok := item.(string)
		if !ok {
			return errors.New("must be a text or a list of texts")
		}
		*t = append(*t, text)
	}
	return notEmpty(len(*t))
}

// Statuses is a status, a range of statuses such as "400-499", or a list of both.
type Statuses []string

// DecodeValue implements strict.Value.
func (s *Statuses) DecodeValue(from any) error {
	for _, item := range items(from) {
		switch v := item.(type) {
		case int64:
			*s = append(*s, strconv.FormatInt(v, 10))
		case string:
			*s = append(*s, v)
		default:
			return fmt.Errorf(`must be a status such as 403, a range such as "400-499", or a list of them`)
		}
	}
	return notEmpty(len(*s))
}

func items(from any) []any {
	if list, ok := from.([]any); ok {
		return list
	}
	return []any{from}
}

func notEmpty(n int) error {
	if n == 0 {
		return errors.New("is an empty list; remove the key, or name a value")
	}
	return nil
}

// ruleList returns [[rules]] for the engine.
func (c *Config) ruleList() []rules.Rule {
	list := make([]rules.Rule, 0, len(c.Rules))
	for _, r := range c.Rules {
		w, t := r.When, r.Then
		list = append(list, rules.Rule{
			Preset: r.Preset,
			When: rules.When{Hosts: w.Host, Methods: w.Method, Statuses: w.Status, Headers: w.Header, Body: w.Body,
				Error: w.Error},
			Then: rules.Then{Retry: t.Retry, OtherProxy: t.OtherProxy, Rest: time.Duration(t.Rest),
				Ban: time.Duration(t.Ban), Final: t.Final, Blame: t.Blame},
		})
	}
	return list
}

// rules checks [[rules]].
func (l *loader) rules() {
	_, err := rules.Compile(l.cfg.ruleList())
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return
	}
	for _, err := range joined.Unwrap() {
		var wrong *rules.Error
		if errors.As(err, &wrong) {
			l.fault(wrong.Path(), wrong.Value, wrong.Msg)
		}
	}
}
