// Package accesslog writes the access log: one line for each request of a client, when the request has ended.
package accesslog

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// Filter determines which requests are logged. The zero value logs no requests.
type Filter struct {
	errors       bool    // requests that count as errors are logged
	successShare float64 // share of the requests without an error that are logged, from 0 to 1
}

// ParseFilter parses a filter: "off", "errors", "all", or a percentage such as "1%". With a percentage, all requests
// that count as errors are logged, and this share of the other requests.
func ParseFilter(s string) (Filter, error) {
	switch s {
	case "off":
		return Filter{}, nil
	case "errors":
		return Filter{errors: true}, nil
	case "all":
		return Filter{errors: true, successShare: 1}, nil
	}
	number, found := strings.CutSuffix(s, "%")
	percent, err := strconv.ParseFloat(number, 64)
	if !found || err != nil || !(percent > 0 && percent <= 100) {
		return Filter{}, fmt.Errorf(`must be "off", "errors", "all", or a percentage such as "1%%"`)
	}
	return Filter{errors: true, successShare: percent / 100}, nil
}

// includes reports whether to log r. For a request without an error, this depends only on its id.
func (f Filter) includes(r *Record) bool {
	if r.isError() {
		return f.errors
	}
	return r.ID.InSample(f.successShare)
}

// The formats of lines.
const (
	JSON     = "json"
	Combined = "combined"
)

// Log is an access log. Its zero value is off. It is safe for concurrent use.
type Log struct {
	filter atomic.Pointer[Filter]

	mu       sync.Mutex // guards the fields below
	combined bool
	out      io.Writer
	buf      []byte
}

// Configure replaces the filter, the format (JSON or Combined) and the output. The output gets each line in one call of
// Write, whose errors are ignored. After Configure, the previous output is no longer used.
func (l *Log) Configure(f Filter, format string, out io.Writer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.combined, l.out = format == Combined, out
	l.filter.Store(&f)
}

// IsOn reports whether any requests are logged.
func (l *Log) IsOn() bool {
	f := l.filter.Load()
	return f != nil && f.errors
}

// Write logs r if the filter includes it. It keeps no reference to r.
func (l *Log) Write(r *Record) {
	if f := l.filter.Load(); f == nil || !f.includes(r) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.combined {
		l.buf = r.appendCombined(l.buf[:0])
	} else {
		l.buf = r.appendJSON(l.buf[:0])
	}
	_, _ = l.out.Write(l.buf)
}
