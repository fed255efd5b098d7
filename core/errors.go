package core

import (
	"errors"
	"time"
)

// The reasons why the selector chooses no proxy.
var (
	ErrPoolEmpty       = errors.New("the pool has no proxy that takes requests")
	ErrAllBreakersOpen = errors.New("no proxy is admissible: every circuit breaker is open")
	ErrAllBusy         = errors.New("every admissible proxy is at its max_in_flight")
)

// RegionError reports that a request is limited to a region and no proxy of that
// region is admissible.
type RegionError struct {
	// Due is the earliest time at which a breaker of the region becomes half-open. It is zero if the reason is
	// not a breaker.
	Due time.Time
}

func (*RegionError) Error() string { return "no proxy of the wanted region is admissible" }

// RestingError reports that every proxy that could otherwise be chosen rests for the target's host, or is banned.
type RestingError struct {
	Left       time.Duration // time until the first of these rests and bans ends; above 0
	Everywhere bool          // each of the proxies is banned, so that no host gets one
}

func (e *RestingError) Error() string {
	if e.Everywhere {
		return "every proxy is banned"
	}
	return "every proxy is banned at this target, and rests for it"
}

// SessionError reports that a session is strict and that its proxy is not admissible.
type SessionError struct {
	// Due is the earliest time at which the proxy may be admissible again; zero if it is unknown.
	Due time.Time
}

func (*SessionError) Error() string {
	return "the proxy of the session is not admissible, and the session is strict"
}

// The errors of functions that change a proxy or a plugin: ErrNotFound if there is none with the
// name, ErrConflict if the name is taken or in use. The functions return errors that wrap these.
var (
	ErrNotFound = errors.New("not found")
	ErrConflict = errors.New("already exists")
)

// KeyError is an error in one configuration key.
type KeyError struct {
	Key   string
	Value any // the configured value; nil if it does not help to explain the error
	Err   error
}

func (e *KeyError) Error() string { return e.Key + ": " + e.Err.Error() }

// Unwrap returns the error without the key.
func (e *KeyError) Unwrap() error { return e.Err }
