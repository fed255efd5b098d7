// Package logfold keeps floods of log records short. Of the records with one message and level, the
// first Limit of a second are written. The others are counted, and one record at the end of the
// second states their number.
package logfold

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Limit is the number of records with one message and level that are written in a second.
const Limit = 100

// period is the time over which records are counted.
const period = time.Second

// maxKinds is the maximum number of kinds that are counted at a time. Records of further kinds are
// all written.
const maxKinds = 1000

// kind is what records must have in common to be counted together.
type kind struct {
	level   slog.Level
	message string
}

// count is the number of records of one kind in the current period.
type count struct{ written, folded int }

// counts is shared by a handler and those derived from it.
type counts struct {
	next slog.Handler // without the attributes of derived handlers

	mu     sync.Mutex
	byKind map[kind]*count // guarded by mu; of the current period
}

// Handler is a slog.Handler that folds floods. It is safe for concurrent use.
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

// Flush writes the records about the current period, and begins a new one.
func (h *Handler) Flush() { h.counts.flush() }

// admit counts a record and reports whether it is to be written.
func (c *counts) admit(k kind) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.byKind[k]
	if n == nil {
		if len(c.byKind) >= maxKinds {
			return true
		}
		if len(c.byKind) == 0 {
			time.AfterFunc(period, c.flush)
		}
		n = &count{}
		c.byKind[k] = n
	}
	if n.written < Limit {
		n.written++
		return true
	}
	n.folded++
	return false
}

// flush ends the period.
func (c *counts) flush() {
	c.mu.Lock()
	ended := c.byKind
	c.byKind = make(map[kind]*count, len(ended))
	c.mu.Unlock()
	for k, n := range ended {
		if n.folded == 0 {
			continue
		}
		r := slog.NewRecord(time.Now(), k.level, k.message, 0)
		r.AddAttrs(slog.Int("folded", n.folded), slog.Duration("within", period))
		_ = c.next.Handle(context.Background(), r) // the error of a log has no place to go to
	}
}
