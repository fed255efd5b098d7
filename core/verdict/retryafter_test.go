package verdict

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func TestRetryAfter(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1": time.Second, "3600": time.Hour, "0": 0, "-1": 0, "1.5": 0, "soon": 0, "": 0,
		"99999999999999999999": (1<<31 - 1) * time.Second, "1 ": 0,
		"Tue, 24 Nov 2026 12:00:30 GMT":   30 * time.Second,
		"Tuesday, 24-Nov-26 12:00:30 GMT": 30 * time.Second,
		"Tue Nov 24 12:00:30 2026":        30 * time.Second,
		"Tue, 24 Nov 2026 11:59:59 GMT":   0,
		"Tue, 24 Nov 2026 12:00:30 +0100": 0,
	} {
		got, ok := parseRetryAfter(text, noon)
		assert.Equal(t, want, got, text)
		assert.Equal(t, want > 0, ok, text)
	}
	facts := Facts{Status: 429, StatusRetried: true, RetryAfter: "1"}
	assert.Equal(t, time.Second, Judge(&facts).RetryAfter)
	facts.Status = 500
	assert.Zero(t, Judge(&facts).RetryAfter, "Retry-After has a meaning with 429 and 503 only")
}

// FuzzRetryAfter: every wait is above 0, and dates are parsed as net/http does.
func FuzzRetryAfter(f *testing.F) {
	for _, v := range []string{"1", "3600", "99999999999999999999", "-1", "1.5", "0x10", "1_000",
		"Tue, 24 Nov 2026 12:00:30 GMT", "Tuesday, 24-Nov-26 12:00:30 GMT", "Tue Nov 24 12:00:30 2026"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v string) {
		got, ok := parseRetryAfter(v, noon)
		if ok != (got > 0) {
			t.Fatalf("%q: %v %v", v, got, ok)
		}
		if n, err := strconv.ParseUint(v, 10, 31); err == nil {
			if got != time.Duration(n)*time.Second {
				t.Fatalf("%q: %v", v, got)
			}
			return
		}
		if at, err := http.ParseTime(v); err == nil && at.After(noon) && got != at.Sub(noon) || ok && v[0] > '9' &&
			err != nil {
			t.Fatalf("%q: %v; net/http: %v %v", v, got, at, err)
		}
	})
}
