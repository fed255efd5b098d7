package session

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Request describes the session that a request asks for.
type Request struct {
	ID     string        // 1 to MaxID characters: letters, digits and "._~-"; "" for no session
	TTL    time.Duration // the session ends after this time without a served request; MinTTL to MaxTTL
	Strict bool          // a session that has a proxy uses no other proxy
}

// MaxID is the maximum length of a session's id.
const MaxID = 64

// The limits and the default of Request.TTL.
const (
	DefaultTTL = 10 * time.Minute
	MinTTL     = time.Second
	MaxTTL     = 24 * time.Hour
)

// Field is the name of the request field that ParseField parses.
const Field = "X-Whirlpool-Session"

// ParseField parses an X-Whirlpool-Session field: the id of a session, optionally followed by the parameters ttl (see
// parseTTL) and strict, for example "abc123; ttl=10m; strict". Names of parameters may be in upper or lower case. An
// empty value means no session. The error quotes the wrong part.
func ParseField(value string) (Request, error) {
	id, rest, more := strings.Cut(value, ";")
	r := Request{ID: strings.Trim(id, " \t"), TTL: DefaultTTL}
	if r.ID == "" && !more {
		return Request{}, nil
	}
	for more {
		var parameter string
		parameter, rest, more = strings.Cut(rest, ";")
		name, value, hasValue := strings.Cut(strings.Trim(parameter, " \t"), "=")
		var err error
		switch {
		case strings.EqualFold(name, "strict") && !hasValue:
			r.Strict = true
		case strings.EqualFold(name, "ttl") && hasValue:
			r.TTL, err = parseTTL(value)
		default:
			err = fmt.Errorf("has the parameter %q; the parameters are ttl=10m and strict", shorten(name))
		}
		if err != nil {
			return Request{}, fmt.Errorf("%s: %w", Field, err)
		}
	}
	if err := r.Check(); err != nil {
		return Request{}, fmt.Errorf("%s: %w", Field, err)
	}
	return r, nil
}

var errID = fmt.Errorf("the id of a session has 1 to %d letters, digits and characters of \"._~-\"", MaxID)

// Check returns an error if the ID or the TTL is not valid.
func (r Request) Check() error {
	switch {
	case !validID(r.ID):
		return errID
	case r.TTL < MinTTL || r.TTL > MaxTTL:
		return errTTL
	}
	return nil
}

func validID(id string) bool {
	for i := range len(id) {
		c := id[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && strings.IndexByte("._~-", c) < 0 {
			return false
		}
	}
	return id != "" && len(id) <= MaxID
}

var errTTL = errors.New("the ttl of a session is a time from 1s to 24h: such as 30s, 10m or 2h, or a number of minutes")

// parseTTL parses a duration such as 30s, 10m or 2h, without checking the range. A number without a unit is in minutes,
// as in the user names of most proxy vendors.
func parseTTL(s string) (time.Duration, error) {
	if n, err := strconv.ParseUint(s, 10, 16); err == nil {
		s = strconv.FormatUint(n, 10) + "m"
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, errTTL
	}
	return d, nil
}

func shorten(s string) string {
	const maxLength = 32
	if len(s) > maxLength {
		return s[:maxLength] + "..."
	}
	return s
}
