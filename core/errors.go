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
