// Package logfold limits the number of similar log records. Each kind of record (its level and message) has an
// allowance of Burst records. The allowance grows by Rate per second, up to Burst. Records beyond the allowance are not
// written but counted, and once a second one record states their number. For some messages only the first record is
// written; the next one is written after a second in which no record with this message has arrived.
package logfold

import (
	"context"
	"log/slog"
	"slices"
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

// kind is a kind of record. Records of the same kind are counted together.
type kind struct {
	level   slog.Level
	message string
	err     string // value of the attribute "error", for messages of which only the first record is written
}

// kindState is the state of one kind.
type kindState struct {
	allowed    int  // records that may be written now
	folded     int  // records in this period that were not written
	noneFolded bool // folded was 0 at the last report
}

// state is shared by a handler and the handlers derived from it.
type state struct {
	next     slog.Handler // handler without the attributes of derived handlers
	onceOnly []string     // messages of which only the first record is written

	mu     sync.Mutex
	byKind map[kind]*kindState // guarded by mu; the kinds whose allowance is not full
}

// Handler is a slog.Handler that limits the number of similar records. It is safe for concurrent
// use.
type Handler struct {
	slog.Handler
	state *state
}

// New returns a handler that passes records on to next. For each message in onceOnly and each value of the attribute
// "error", it passes on only the first record.
func New(next slog.Handler, onceOnly ...string) *Handler {
	return &Handler{next, &state{next: next, onceOnly: onceOnly, byKind: map[kind]*kindState{}}}
}

// Handle implements slog.Handler.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	k := kind{level: r.Level, message: r.Message}
	if slices.Contains(h.state.onceOnly, r.Message) {
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "error" {
				k.err = a.Value.String()
			}
			return k.err == ""
		})
	}
	if !h.state.admit(k) {
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

// admit counts a record and reports whether to write it.
func (c *state) admit(k kind) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.byKind[k]
	if n == nil {
		if len(c.byKind) >= maxKinds {
			return true
		}
		if len(c.byKind) == 0 {
			time.AfterFunc(period, c.endPeriod)
		}
		n = &kindState{allowed: Burst}
		if slices.Contains(c.onceOnly, k.message) {
			n.allowed = 1
		}
		c.byKind[k] = n
	}
	if n.allowed > 0 {
		n.allowed--
		return true
	}
	n.folded++
	return false
}

// endPeriod reports the records that were not written, and lets the allowances grow.
func (c *state) endPeriod() {
	c.report()
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, n := range c.byKind {
		if slices.Contains(c.onceOnly, k.message) {
			if n.noneFolded && n.folded == 0 {
				delete(c.byKind, k)
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
		if k.err != "" {
			r.AddAttrs(slog.String("error", k.err))
		}
		r.AddAttrs(slog.Int("folded", n), slog.Duration("within", period))
		_ = c.next.Handle(context.Background(), r) // an error of the log cannot be reported anywhere
	}
}
