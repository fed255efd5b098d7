package transport

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Facts are what an answer shows about who wrote it. They conclude nothing.
type Facts struct {
	// FromProxy: it came on an HTTP(S) proxy's own connection, to a request in
	// absolute form or to a CONNECT. The other facts are looked for only then, and
	// with a status of 400 or above.
	FromProxy bool
	// Own is set if a mark shows that the page is the proxy's. A refused CONNECT
	// always is; there nil says only that nothing is known of the page.
	ErrorPage *ErrorPage
	// InnerOutcome is how a Whirlpool behind us ended the request, as core.Final words it
	// (its X-Whirlpool-Outcome); "" if there is none.
	InnerOutcome string
	// Challenges are the schemes of a 407's Proxy-Authenticate, at most 8: nil
	// without such a field, empty if none can be read.
	Challenges []string
}

// innerOutcome returns the outcome that a Whirlpool behind us states; "" for none,
// or for what is no outcome, or for several.
func innerOutcome(fields []http1.Field) (inner string) {
	seen := false
	for i := range fields {
		f := &fields[i]
		if f.Kind != http1.Whirlpool || !http1.EqualFold(f.Name, "x-whirlpool-outcome") {
			continue
		}
		if seen {
			return ""
		}
		seen = true
		for final := core.FinalSuccess; final <= core.FinalAllBusy; final++ {
			if string(f.Value) == final.String() {
				inner = final.String()
			}
		}
	}
	return inner
}

// How much of a page's beginning the rules see, and how long is waited for it.
const (
	maxPage  = 8 << 10
	pageWait = 100 * time.Millisecond
)

// setFacts sets the facts of an answer whose head has just come.
func (r *Response) setFacts(c *Control, q *Request, u *upstream.Upstream) {
	pc := r.pc
	if pc.key != "" {
		return
	}
	r.FromProxy = true
	if r.Status < 400 {
		r.pool.habit.note(r.Fields, q.Authority)
		return
	}
	r.InnerOutcome = innerOutcome(r.Fields)
	if r.Status == 407 {
		r.Challenges = challenges(r.Fields)
	}
	p := page{status: r.Status, reason: r.Reason, fields: r.Fields}
	rules := u.Spec().OwnErrors
	r.lookAhead(c, rules, &p)
	habit := viaWord(r.pool.habit.word.Load())
	if r.ErrorPage = ownError(&p, rules, habit); r.ErrorPage == nil && habit.always() && p.vias == 0 && r.t.distinct(r.pool) {
		r.ErrorPage = &ErrorPage{Mark: "no via", Kind: verdict.ErrorPageUnclear}
	}
}

// lookAhead sets p.body to what has come of the body, and consumes nothing: with
// chunked framing the chunks' sizes are among it. It waits for more only where a
// rule depends on it.
func (r *Response) lookAhead(c *Control, rules []upstream.OwnError, p *page) {
	if r.Framing == http1.NoBody {
		return
	}
	reader := &r.pc.reader
	p.body = reader.Buffered()[:min(len(reader.Buffered()), maxPage)]
	wanted := false
	for i := range rules {
		wanted = wanted || rules[i].Body != "" && headMatches(&rules[i], p)
	}
	if !wanted {
		return
	}
	most := maxPage
	if r.Framing == http1.Length {
		most = int(min(r.Length, maxPage))
	}
	until := r.t.cfg.Now().Add(pageWait)
	if c.Deadline.Before(until) {
		until = c.Deadline
	}
	r.pc.setReadDeadline(c, until)
	for {
		have := reader.Buffered()
		whole := len(have) >= most || r.Framing == http1.Chunked && bytes.HasSuffix(have, []byte("0\r\n\r\n"))
		p.body = have[:min(len(have), most)]
		if whole || slices.ContainsFunc(rules, func(rule upstream.OwnError) bool { return matches(&rule, p) }) {
			break
		}
		if err := reader.ReadAhead(); err != nil {
			if err != io.EOF && !errors.Is(err, os.ErrDeadlineExceeded) { // it would not be met again
				r.Body.Took(0, err)
			}
			break
		}
		if len(reader.Buffered()) == len(have) {
			break // the buffer is full
		}
	}
	r.pc.setReadDeadline(c, c.Deadline)
	have := reader.Buffered()
	p.body = have[:min(len(have), most)]
}

// setFacts sets the facts of a refused CONNECT.
func (r *Refusal) setFacts(u *upstream.Upstream) {
	r.FromProxy = true
	if r.Status < 400 {
		return
	}
	r.InnerOutcome = innerOutcome(r.Fields)
	if r.Status == 407 {
		r.Challenges = challenges(r.Fields)
	}
	p := page{status: r.Status, reason: []byte(r.Reason), fields: r.Fields, body: r.Body[:min(len(r.Body), maxPage)], connect: true}
	r.ErrorPage = ownError(&p, u.Spec().OwnErrors, 0)
}

// Verdict is what an answer says, as package verdict takes it.
func (r *Response) Verdict(timing core.Timing) verdict.Facts {
	f := verdict.Facts{Status: r.Status, Timing: timing}
	if r.RetryAfter != nil {
		f.RetryAfter = string(r.RetryAfter)
	}
	r.Facts.state(&f)
	return f
}

// Verdict is what a refused CONNECT says, as package verdict takes it.
func (r *Refusal) Verdict(timing core.Timing) verdict.Facts {
	f := verdict.Facts{Status: r.Status, RetryAfter: r.RetryAfter, Timing: timing, Tunnel: true}
	r.Facts.state(&f)
	return f
}

func (a *Facts) state(f *verdict.Facts) {
	f.FromProxy, f.InnerOutcome, f.Challenged = a.FromProxy, a.InnerOutcome, a.Challenges != nil
	f.Schemes = wanted(a.Challenges)
	if a.ErrorPage != nil {
		f.ErrorPage, f.ErrorPageReason = a.ErrorPage.Kind, a.ErrorPage.Reason
	}
}
