package core

import (
	"errors"
	"time"
)

// Why no proxy can be chosen for a request.
var (
	ErrPoolEmpty       = errors.New("the pool has no proxy that takes requests")
	ErrAllBreakersOpen = errors.New("no proxy is admissible: every circuit breaker is open")
	ErrAllBusy         = errors.New("every admissible proxy is at its max_in_flight")
)

// RegionError says that a request insists on a region of which no proxy is
// admissible.
type RegionError struct {
	Due time.Time // when the first of its circuit breakers may admit a request; zero if no breaker is the reason
}

func (*RegionError) Error() string { return "no proxy of the wanted region is admissible" }

// Why a proxy or plugin cannot be changed as asked: there is none of that name,
// or one that is there stands in the way. Errors wrap these.
var (
	ErrNotFound = errors.New("not found")
	ErrConflict = errors.New("already exists")
)

// KeyError says which key of the configuration an error is of.
type KeyError struct {
	Key   string
	Value any // as it is written; nil if that says nothing
	Err   error
}

func (e *KeyError) Error() string { return e.Key + ": " + e.Err.Error() }

// Unwrap is the error without the key.
func (e *KeyError) Unwrap() error { return e.Err }
