package core

import "errors"

// The ends that no single attempt explains.
var (
	ErrPoolEmpty       = errors.New("the pool has no proxy that takes requests")
	ErrAllBreakersOpen = errors.New("no proxy is admissible: every circuit breaker is open")
	ErrAllBusy         = errors.New("every admissible proxy is at its max_in_flight")
	ErrNotFound        = errors.New("not found")
	ErrConflict        = errors.New("already exists")
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
