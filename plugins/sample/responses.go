package sample

import (
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Response is a sample for judges.
type Response struct {
	Name    string // describes the sample
	Request core.JudgeRequest
	Excerpt core.Excerpt // has all parts that a judge may need; see ForJudge
}

// ForJudge returns the request and the excerpt that a judge gets. The parameter w has the parts of a response that the
// judge needs.
func (r *Response) ForJudge(w *core.ExcerptSpec) (*core.JudgeRequest, *core.Excerpt) {
	q, e := r.Request, r.Excerpt
	e.Fields = nil
	for _, f := range r.Excerpt.Fields {
		for _, name := range w.Fields {
			if f.Name == name {
				e.Fields = append(e.Fields, f)
			}
		}
	}
	if len(e.Body) > w.Body {
		e.Body, e.Whole = e.Body[:w.Body], false
	}
	q.Length, q.Encoded, q.Whole = float64(e.Length), toFloat(e.Encoded), toFloat(e.Whole)
	return &q, &e
}

func toFloat(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// NewResponse returns a response. The parameter fields has the header fields: a name, its value, another name, its
// value and so on.
func NewResponse(name string, status float64, body string, fields ...string) Response {
	r := Response{Name: name, Request: core.JudgeRequest{Now: now, AttemptsLeft: 2, Status: status, Latency: 0.1,
		HostHash: core.Hash53(host), IDHash: core.Hash53(ID(0))}}
	r.Excerpt = core.Excerpt{Body: []byte(body), Length: int64(len(body)), Whole: true}
	for i := 0; i+1 < len(fields); i += 2 {
		r.Excerpt.Fields = append(r.Excerpt.Fields, core.ExcerptField{Name: strings.ToLower(fields[i]),
			Value: []byte(fields[i+1])})
	}
	return r
}

// Responses returns samples for judges: frequent responses of a target, and extreme responses. The first sample is
// large.
func Responses() []Response {
	html := "<html><head><title>Shop</title></head><body>" + strings.Repeat("<p>A long page of products.</p>", 300)
	all := []Response{
		NewResponse("200 with a long page", 200, html[:core.MaxExcerptBody], "content-type", "text/html"),
		NewResponse("200 without a body", 200, ""),
		NewResponse("301", 301, "", "location", "http://example.com/"),
		NewResponse("403", 403, "<h1>Forbidden</h1>", "content-type", "text/html", "server", "nginx"),
		NewResponse("404", 404, "not found"),
		NewResponse("429 with Retry-After", 429, "slow down", "retry-after", "120"),
		NewResponse("429 with a date", 429, "slow down", "retry-after", "Fri, 31 Dec 2027 23:59:59 GMT"),
		NewResponse("200 with a captcha", 200, "<h1>Are you a robot?</h1><div class=captcha></div>",
			"cf-mitigated", "challenge"),
		NewResponse("503", 503, `{"error":"unavailable"}`),
		NewResponse("bytes that are not text", 200, "\x00\xff\xfe"+strings.Repeat("\x00", 100)),
		NewResponse("many header fields", 200, "", manyFields()...),
	}
	all[0].Excerpt.Length, all[0].Excerpt.Whole = 100_000, false
	last := NewResponse("the last attempt, of a body of unknown length that is not decoded", 403, "\x8b\x02\x80")
	last.Request.Attempt, last.Request.AttemptsLeft, last.Excerpt.Length = 9, 0, -1
	last.Excerpt.Encoded, last.Excerpt.Whole = true, false
	zero := Response{Name: "a request of zeros", Excerpt: core.Excerpt{}}
	return append(all, last, zero)
}

func manyFields() (fields []string) {
	for range core.MaxExcerptFields {
		fields = append(fields, "set-cookie", strings.Repeat("v", core.MaxExcerptValue))
	}
	return append(fields, "server", "", "retry-after", "-1")
}
