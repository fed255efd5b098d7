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

// RegionError reports that a request is limited to a region, and that no proxy of this region is admissible.
type RegionError struct {
	// Due is the earliest time at which the breaker of a proxy of the region becomes half-open. It is zero if the
	// reason is not a breaker.
	Due time.Time
}

func (*RegionError) Error() string { return "no proxy of the wanted region is admissible" }

// TagError reports that a rule limits a request to the proxies with a tag and that no such proxy is admissible.
type TagError struct {
	// Due is the earliest time at which a breaker of these proxies becomes half-open. It is zero if the reason is not
	// a breaker.
	Due time.Time
}

func (*TagError) Error() string { return "no proxy with the tag that a rule requires is admissible" }

// BannedError reports that every proxy that could be chosen is banned, for the target's host or for all hosts.
type BannedError struct {
	TimeLeft  time.Duration // time until the first ban of these proxies ends; above 0
	AllBanned bool          // each of the proxies is banned, so it is chosen for no host
}

func (e *BannedError) Error() string {
	if e.AllBanned {
		return "every proxy is banned"
	}
	return "every proxy is banned at this target, and rests for it"
}

// LimitedError reports that every proxy that could be chosen is at one of its limits.
type LimitedError struct {
	TimeLeft time.Duration // time until the first of these proxies admits an attempt; 0 if this time is unknown
	// WaitsForAttempt is set if one of these proxies is at its limit of attempts in flight. This proxy admits an
	// attempt as soon as one of its attempts in flight has ended, perhaps before TimeLeft has passed.
	WaitsForAttempt bool
}

func (*LimitedError) Error() string { return "every admissible proxy is at one of its limits" }

// IsBusy reports whether err is ErrAllBusy or a *LimitedError. After such an error, a proxy may be chosen again as soon
// as an attempt ends.
func IsBusy(err error) bool {
	_, limited := err.(*LimitedError)
	return limited || err == ErrAllBusy
}

// SessionError reports that a session is strict and that its proxy is not admissible.
type SessionError struct {
	// Due is the earliest time at which the proxy may be admissible again; zero if this time is unknown.
	Due time.Time
}

func (*SessionError) Error() string {
	return "the proxy of the session is not admissible, and the session is strict"
}

// Functions that change a proxy or a plugin return errors that wrap these. ErrNotFound: no proxy or plugin has the
// given name. ErrConflict: the name is taken, or the proxy or plugin with this name cannot be changed.
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
