// Package logfold limits the number of similar log records. Each kind of record (its level and message) has an
// allowance of Burst records, which is refilled by Rate per second. Records beyond the allowance are counted, and
// once a second one record states their number.
package logfold

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// Burst is the number of records of one kind that are written at once.
	Burst = 1000
	// Rate is the number of records of one kind that are written in each further second.
	Rate = 10
)

// period is the time after which the records that were not written are reported.
const period = time.Second

// maxKinds is the maximum number of kinds that are counted in a period. Records of further kinds are written
// without a limit.
const maxKinds = 1000

// kind is a kind of record. Records of the same kind are counted together.
type kind struct {
	level   slog.Level
	message string
}

// count is the state of one kind.
type count struct {
	allowed int // records that may be written now
	folded  int // records in this period that were not written
}

// counts is shared by a handler and the handlers derived from it.
type counts struct {
	next slog.Handler // without the attributes of derived handlers

	mu     sync.Mutex
	byKind map[kind]*count // guarded by mu; the kinds whose allowance is not full
}

// Handler is a slog.Handler that limits the number of similar records. It is safe for concurrent
// use.
type Handler struct {
	slog.Handler
	counts *counts
}

// New returns a handler that passes records on to next.
func New(next slog.Handler) *Handler {
	return &Handler{next, &counts{next: next, byKind: map[kind]*count{}}}
}

// Handle implements slog.Handler.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	if !h.counts.admit(kind{r.Level, r.Message}) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &Handler{h.Handler.WithAttrs(attrs), h.counts}
}

// WithGroup implements slog.Handler.
func (h *Handler) WithGroup(name string) slog.Handler {
	return &Handler{h.Handler.WithGroup(name), h.counts}
}

// Flush reports the records that have not been written and not been reported yet.
func (h *Handler) Flush() { h.counts.report() }

// admit counts a record, and reports whether to write it.
func (c *counts) admit(k kind) bool {
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
		n = &count{allowed: Burst}
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
func (c *counts) endPeriod() {
	c.report()
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, n := range c.byKind {
		if n.allowed += Rate; n.allowed >= Burst && n.folded == 0 {
			delete(c.byKind, k)
		}
	}
	if len(c.byKind) > 0 {
		time.AfterFunc(period, c.endPeriod)
	}
}

// report writes a record about each kind with records that were not written.
func (c *counts) report() {
	folded := map[kind]int{}
	c.mu.Lock()
	for k, n := range c.byKind {
		if n.folded > 0 {
			folded[k], n.folded = n.folded, 0
		}
	}
	c.mu.Unlock()
	for k, n := range folded {
		r := slog.NewRecord(time.Now(), k.level, k.message, 0)
		r.AddAttrs(slog.Int("folded", n), slog.Duration("within", period))
		_ = c.next.Handle(context.Background(), r) // an error of the log cannot be reported anywhere
	}
}
