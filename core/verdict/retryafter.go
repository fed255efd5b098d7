package verdict

import (
	"errors"
	"strconv"
	"time"
)

// parseRetryAfter parses a Retry-After value (RFC 9110 section 10.2.3): a number of seconds or a date. It returns false
// for any other value, for 0 and for a date that has passed.
func parseRetryAfter(v string, now time.Time) (wait time.Duration, ok bool) {
	if len(v) > 0 && v[0] >= '0' && v[0] <= '9' {
		// If the number is out of range, n is the largest number, which exceeds max_backoff_delay.
		n, err := strconv.ParseUint(v, 10, 31)
		if err != nil && !errors.Is(err, strconv.ErrRange) || n == 0 {
			return 0, false
		}
		return time.Duration(n) * time.Second, true
	}
	at, err := parseDate(v)
	if err != nil || !at.After(now) {
		return 0, false
	}
	return at.Sub(now), true
}

// parseDate parses the three forms of an HTTP-date (RFC 9110 section 5.6.7).
func parseDate(v string) (time.Time, error) {
	at, err := time.Parse("Mon, 02 Jan 2006 15:04:05 GMT", v)
	if err != nil {
		if at, err = time.Parse(time.RFC850, v); err != nil {
			at, err = time.Parse(time.ANSIC, v)
		}
	}
	return at, err
}
