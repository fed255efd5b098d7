package accesslog

import (
	"encoding/json"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/trace"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Record describes one request of a client that has ended. It has no path, no query and no credentials.
type Record struct {
	ID         core.RequestID
	ClientID   string // the client's X-Request-Id; "" without a valid one
	Client     net.Addr
	User       string // "" if the gateway has no users, or if the user is unknown
	Listener   core.Listener
	Method     string
	Target     string // host:port; "" if the request had no valid target
	Minor      int    // the x in the client's HTTP version 1.x; 1 for SOCKS5 and HTTP/2
	HTTP2      bool   // the client speaks HTTP/2
	Status     int    // status of the response; 0 without a response; for SOCKS5, the status that a CONNECT would get
	Code       string // code of the gateway's error response, or why the gateway ended the connection; otherwise ""
	Final      core.Final
	Executed   bool  // the executor was called; otherwise the request was refused before any attempt
	ClientLeft bool  // the client left before the end of the response
	Received   int64 // bytes of the request's body, or in a tunnel from the client to the target
	Sent       int64 // bytes of the response with its head, or in a tunnel from the target to the client
	Started    time.Time
	Ended      time.Time
	WaitTime   time.Duration       // time in backoffs and queues
	Attempts   []core.AttemptEvent // in the order in which the attempts ended
	Rules      core.RuleLabels     // labels of the routing rules that were applied
	Trace      trace.Context       // zero if the request is not traced
}

// isError reports whether the request was not served, or its response has a status of at least 400.
func (r *Record) isError() bool {
	return !r.Executed || r.ClientLeft || r.Code != "" || r.Final != core.FinalSuccess ||
		r.Status >= http.StatusBadRequest
}

// Outcome returns the final outcome of the request, as in X-Whirlpool-Outcome, or "refused" if the request was
// refused before any attempt.
func (r *Record) Outcome() string {
	if !r.Executed {
		return "refused"
	}
	return r.Final.String()
}

// line is the JSON form of a Record.
type line struct {
	Time     string    `json:"time"`
	ID       string    `json:"request_id"`
	ClientID string    `json:"client_request_id,omitempty"`
	Client   string    `json:"client"`
	User     string    `json:"user,omitempty"`
	Listener string    `json:"listener"`
	Method   string    `json:"method"`
	Target   string    `json:"target"`
	Status   int       `json:"status"`
	Outcome  string    `json:"outcome"`
	Error    string    `json:"error,omitempty"`
	Left     bool      `json:"client_left,omitempty"`
	Received int64     `json:"received_bytes"`
	Sent     int64     `json:"sent_bytes"`
	Duration float64   `json:"duration"`
	Waited   float64   `json:"waited"`
	Rules    []string  `json:"rules,omitempty"`
	Attempts []attempt `json:"attempts"`
}

// attempt is the JSON form of an attempt.
type attempt struct {
	Proxy    string  `json:"proxy"`
	Result   string  `json:"result"`
	Cause    string  `json:"cause"`
	Status   int     `json:"status,omitempty"`
	Duration float64 `json:"duration"`
	Hedge    bool    `json:"hedge,omitempty"`
	Rule     string  `json:"rule,omitempty"`
}

// appendJSON appends the record as a line of JSON. Times are in RFC 3339, durations in seconds.
func (r *Record) appendJSON(b []byte) []byte {
	l := line{
		Time: r.Ended.UTC().Format("2006-01-02T15:04:05.000Z"), ID: r.ID.String(), ClientID: r.ClientID,
		Client: address(r.Client), User: r.User,
		Listener: r.Listener.String(), Method: r.Method, Target: r.Target, Status: r.Status, Outcome: r.Outcome(),
		Error: r.Code, Left: r.ClientLeft, Received: r.Received, Sent: r.Sent,
		Duration: r.Ended.Sub(r.Started).Seconds(),
		Waited:   r.WaitTime.Seconds(), Attempts: make([]attempt, 0, len(r.Attempts)),
	}
	for _, label := range r.Rules {
		if label != "" {
			l.Rules = append(l.Rules, label)
		}
	}
	for i := range r.Attempts {
		e := &r.Attempts[i]
		l.Attempts = append(l.Attempts, attempt{
			Proxy: e.ProxyID, Result: e.Outcome.Result.String(), Cause: verdict.CauseName(e.Outcome.Cause),
			Status: e.Outcome.Status, Duration: e.Ended.Sub(e.Started).Seconds(), Hedge: e.Hedge,
			Rule: e.Rule,
		})
	}
	text, err := json.Marshal(&l)
	if err != nil { // impossible: every field has a type that can be encoded
		return b
	}
	return append(append(b, text...), '\n')
}

// appendCombined appends the record in the Combined Log Format of the Apache HTTP Server (mod_log_config), which log
// analyzers read. The referer and the user agent are "-". They are followed by the duration in seconds, the outcome,
// and each attempt as proxy=cause.
func (r *Record) appendCombined(b []byte) []byte {
	host := address(r.Client)
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	b = append(append(b, host...), " - "...)
	b = appendWord(b, r.User)
	b = append(b, r.Ended.Format(" [02/Jan/2006:15:04:05 -0700] ")...)
	protocol := "HTTP/1." + strconv.Itoa(r.Minor)
	switch {
	case r.Listener == core.ListenSOCKS5:
		protocol = "SOCKS5"
	case r.HTTP2:
		protocol = "HTTP/2.0"
	}
	b = strconv.AppendQuoteToASCII(b, r.Method+" "+r.Target+" "+protocol)
	b = strconv.AppendInt(append(b, ' '), int64(r.Status), 10)
	b = strconv.AppendInt(append(b, ' '), r.Sent, 10)
	b = append(b, ` "-" "-" `...)
	b = strconv.AppendFloat(b, r.Ended.Sub(r.Started).Seconds(), 'f', 3, 64)
	b = append(append(b, ' '), r.Outcome()...)
	for i := range r.Attempts {
		e := &r.Attempts[i]
		b = appendWord(append(b, ' '), e.ProxyID)
		b = append(append(b, '='), verdict.CauseName(e.Outcome.Cause)...)
	}
	return append(b, '\n')
}

// appendWord appends s as one word: a space, a quote or a byte that is not printable ASCII is escaped.
func appendWord(b []byte, s string) []byte {
	if s == "" {
		return append(b, '-')
	}
	for i := range len(s) {
		if c := s[i]; c > ' ' && c < 0x7f && c != '"' && c != '\\' {
			b = append(b, c)
		} else {
			b = append(b, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return b
}

const hexDigits = "0123456789abcdef"

func address(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}
