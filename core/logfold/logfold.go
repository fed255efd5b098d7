// Package logfold limits the number of similar log records. Each kind of record (its level and message) has an
// allowance of Burst records. The allowance grows by Rate per second, up to Burst. Records beyond the allowance are not
// written but counted, and once a second one record states their number. For some messages (Rule) only the first
// records of a flood are written; the next ones are written after a second in which no record of this kind has arrived.
package logfold

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// Burst is the number of records of one kind that may be written at once.
	Burst = 1000
	// Rate is the number of records of one kind that are written per second once Burst is used up.
	Rate = 10
)

// period is the interval at which the number of records that were not written is reported.
const period = time.Second

// maxKinds is the maximum number of kinds that are counted in a period. If there are more kinds, their records are
// written without a limit.
const maxKinds = 1000

// maxKindsOfRule is the maximum number of kinds of one message with a Rule. The records of further kinds are only
// counted, all together.
const maxKindsOfRule = 50

// Rule describes a message of which only the first records of a flood are written.
type Rule struct {
	Message string
	// Keys are names of attributes, at most maxKeys. Records with other values of one of them are another kind.
	Keys  []string
	First int // number of records of a kind that are written before the others are counted
}

const maxKeys = 3

// kind is a kind of record. Records of the same kind are counted together.
type kind struct {
	level   slog.Level
	message string
	values  [maxKeys]string // of the attributes Rule.Keys
	others  bool            // all kinds of the message beyond maxKindsOfRule
}

// kindState is the state of one kind.
type kindState struct {
	allowed    int  // records that may be written now
	folded     int  // records in this period that were not written
	noneFolded bool // folded was 0 at the last report
}

// state is shared by a handler and the handlers derived from it.
type state struct {
	next  slog.Handler     // handler without the attributes of derived handlers
	rules map[string]*Rule // by message

	mu          sync.Mutex
	byKind      map[kind]*kindState // guarded by mu; the kinds whose allowance is not full
	kindsOfRule map[string]int      // guarded by mu; the number of kinds in byKind, by message with a rule
}

// Handler is a slog.Handler that limits the number of similar records. It is safe for concurrent
// use.
type Handler struct {
	slog.Handler
	state *state
}

// New returns a handler that passes records on to next.
func New(next slog.Handler, rules ...Rule) *Handler {
	s := &state{next: next, rules: map[string]*Rule{}, byKind: map[kind]*kindState{}, kindsOfRule: map[string]int{}}
	for i := range rules {
		s.rules[rules[i].Message] = &rules[i]
	}
	return &Handler{next, s}
}

// Handle implements slog.Handler.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	k := kind{level: r.Level, message: r.Message}
	rule := h.state.rules[r.Message]
	if rule != nil {
		r.Attrs(func(a slog.Attr) bool {
			if i := slices.Index(rule.Keys, a.Key); i >= 0 {
				k.values[i] = a.Value.String()
			}
			return true
		})
	}
	if !h.state.admit(k, rule) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &Handler{h.Handler.WithAttrs(attrs), h.state}
}

// WithGroup implements slog.Handler.
func (h *Handler) WithGroup(name string) slog.Handler {
	return &Handler{h.Handler.WithGroup(name), h.state}
}

// Flush reports the number of records that were not written since the last report.
func (h *Handler) Flush() { h.state.report() }

// admit counts a record of the kind k and reports whether to write it. The parameter rule is the rule of its message;
// nil for none.
func (c *state) admit(k kind, rule *Rule) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.byKind[k]
	if n == nil && rule != nil && c.kindsOfRule[k.message] >= maxKindsOfRule {
		k = kind{level: k.level, message: k.message, others: true}
		n = c.byKind[k]
	}
	if n == nil {
		if rule == nil && len(c.byKind) >= maxKinds {
			return true
		}
		n = c.add(k, rule)
	}
	if n.allowed > 0 {
		n.allowed--
		return true
	}
	n.folded++
	return false
}

// The method add adds the kind k, and begins a period if there was no kind. The caller holds mu.
func (c *state) add(k kind, rule *Rule) *kindState {
	if len(c.byKind) == 0 {
		time.AfterFunc(period, c.endPeriod)
	}
	n := &kindState{allowed: Burst}
	if rule != nil {
		n.allowed = rule.First
		c.kindsOfRule[k.message]++
	}
	if k.others {
		n.allowed = 0
	}
	for i, value := range k.values {
		k.values[i] = strings.Clone(value) // the record's text may be overwritten after Handle
	}
	c.byKind[k] = n
	return n
}

// endPeriod reports the records that were not written, and lets the allowances grow.
func (c *state) endPeriod() {
	c.report()
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, n := range c.byKind {
		if c.rules[k.message] != nil {
			if n.noneFolded && n.folded == 0 {
				delete(c.byKind, k)
				c.kindsOfRule[k.message]--
			}
			continue
		}
		if n.allowed += Rate; n.allowed >= Burst && n.folded == 0 {
			delete(c.byKind, k)
		}
	}
	if len(c.byKind) > 0 {
		time.AfterFunc(period, c.endPeriod)
	}
}

// report writes one record for each kind with records that were not written. This record states their number.
func (c *state) report() {
	folded := map[kind]int{}
	c.mu.Lock()
	for k, n := range c.byKind {
		n.noneFolded = n.folded == 0
		if n.folded > 0 {
			folded[k], n.folded = n.folded, 0
		}
	}
	c.mu.Unlock()
	for k, n := range folded {
		r := slog.NewRecord(time.Now(), k.level, k.message, 0)
		if rule := c.rules[k.message]; rule != nil {
			for i, key := range rule.Keys {
				if k.values[i] != "" {
					r.AddAttrs(slog.String(key, k.values[i]))
				}
			}
		}
		r.AddAttrs(slog.Int("folded", n), slog.Duration("within", period))
		_ = c.next.Handle(context.Background(), r) // an error of the log cannot be reported anywhere
	}
}
