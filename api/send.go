package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/session"
)

// requester is the part of the engine that POST /request uses.
type requester interface {
	Do(ctx context.Context, call engine.Call) (*engine.Result, error)
	Merge(o retry.Override) (*retry.Policy, error)
}

// sendHandler serves POST /request and, for requests whose client does not wait, POST /requests.
type sendHandler struct {
	engine    requester
	ctx       context.Context // ends when the server stops
	now       func() time.Time
	log       *slog.Logger
	submitted submissions
}

func (h *sendHandler) routes(r fiber.Router) {
	r.Post("/request", h.send)
	r.Post("/requests", h.submit)
	r.Get("/requests/:id/response", h.getResponse)
	r.Delete("/requests/:id", h.cancel)
}

// requestInput is the JSON of a request that POST /request sends through the pool.
type requestInput struct {
	Method     string            `json:"method"`
	URL        string            `json:"url"`
	Headers    map[string]string `json:"headers"`
	Body       *string           `json:"body"`
	BodyBase64 *string           `json:"body_base64"`
	Retry      *retry.Override   `json:"retry"`
	Region     string            `json:"region"`
	Strict     bool              `json:"region_strict"`
	Priority   *string           `json:"priority"` // nil for normal
	Session    string            `json:"session"`  // as in X-Whirlpool-Session; "" for none
}

// responseView is the JSON of the response to a requestInput.
type responseView struct {
	RequestID  string              `json:"request_id"`
	Outcome    string              `json:"outcome"`
	Status     int                 `json:"status"`
	Headers    map[string][]string `json:"headers"`
	Trailers   map[string][]string `json:"trailers,omitempty"`
	Body       *string             `json:"body,omitempty"`
	BodyBase64 *string             `json:"body_base64,omitempty"` // set if the body is not UTF-8
	Truncated  bool                `json:"truncated"`
	Attempts   []attemptView       `json:"attempts"`
}

// failedRequest holds the details of an error response to POST /request.
type failedRequest struct {
	Attempts  []attemptView `json:"attempts"`
	RequestID string        `json:"request_id"`
}

// maxResponseBody is the number of bytes after which the body of a response is cut off.
const maxResponseBody = 10 << 20

func (h *sendHandler) send(c *fiber.Ctx) error {
	call, err := h.readCall(c)
	if err != nil {
		return err
	}
	view, err := h.sendRequest(h.ctx, call, func(int) bool { return true })
	if err != nil {
		return err
	}
	return send(c, view)
}

// sendRequest sends the request of a call and reads its response. Before it keeps a part of the response, it calls
// reserve with the number of bytes of this part. If reserve returns false, the response is truncated: the header or the
// trailer is left out, or the body ends before this part.
func (h *sendHandler) sendRequest(
	ctx context.Context, call engine.Call, reserve func(bytes int) bool,
) (*responseView, error) {
	result, err := h.engine.Do(ctx, call)
	var requestError *engine.RequestError
	if errors.As(err, &requestError) {
		return nil, newProblem(fiber.StatusBadRequest, "invalid_request", requestError.Msg)
	}
	if err != nil {
		return nil, err
	}
	if result.Response == nil {
		return nil, noResponseProblem(result)
	}
	return readResponse(result, reserve), nil
}

func noResponseProblem(result *engine.Result) error {
	f := result.Failure
	p := newProblem(f.Status, f.FinalCode(result.Final), f.Message)
	p.retryAfter = f.RetryAfterSeconds()
	p.body.Details = failedRequest{viewsOfAttempts(result.Attempts), result.ID.String()}
	return p
}

// errNoMemory ends the reading of a response for which there is no memory.
var errNoMemory = errors.New("no memory for the rest of the body")

// reservingReader reserves the bytes that it returns.
type reservingReader struct {
	io.Reader
	reserve func(bytes int) bool
}

func (r *reservingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 && !r.reserve(n) {
		return 0, errNoMemory
	}
	return n, err
}

// fieldBytes returns the number of bytes of the names and values of header fields.
func fieldBytes(h http.Header) (n int) {
	for name, values := range h {
		for _, v := range values {
			n += len(name) + len(v)
		}
	}
	return n
}

// readResponse reads the response's body and closes it, which ends the exchange.
func readResponse(result *engine.Result, reserve func(bytes int) bool) *responseView {
	r := result.Response
	v := &responseView{RequestID: result.ID.String(), Status: r.StatusCode, Headers: r.Header}
	if !reserve(fieldBytes(r.Header)) {
		v.Headers, v.Truncated = map[string][]string{}, true
	}
	body, err := io.ReadAll(io.LimitReader(&reservingReader{r.Body, reserve}, maxResponseBody+1))
	v.Truncated = v.Truncated || err != nil
	if len(body) > maxResponseBody || err == errNoMemory {
		body, v.Truncated = body[:min(len(body), maxResponseBody)], true
		result.EndAsSuccess() // so that the unread part of the body is not charged to the proxy
	}
	r.Body.Close()
	if reserve(fieldBytes(r.Trailer)) {
		v.Trailers = sentFields(r.Trailer)
	} else {
		v.Truncated = true
	}
	if utf8.Valid(body) {
		text := string(body)
		v.Body = &text
	} else {
		text := base64.StdEncoding.EncodeToString(body)
		v.BodyBase64 = &text
	}
	v.Outcome, v.Attempts = result.Final.String(), viewsOfAttempts(result.Attempts)
	return v
}

// sentFields returns the fields of a trailer that have a value; nil if there are none. A field without a value was
// announced, but not sent.
func sentFields(trailer http.Header) (sent map[string][]string) {
	for name, values := range trailer {
		if len(values) == 0 {
			continue
		}
		if sent == nil {
			sent = map[string][]string{}
		}
		sent[name] = values
	}
	return sent
}

// readCall reads a request's body, which describes the call.
func (h *sendHandler) readCall(c *fiber.Ctx) (call engine.Call, err error) {
	var input requestInput
	if err := decodeBody(c, &input); err != nil {
		return call, err
	}
	return h.engineCall(&input)
}

func (h *sendHandler) engineCall(input *requestInput) (call engine.Call, err error) {
	if input.Strict && input.Region == "" {
		return call, badField("region_strict", "region_strict needs a region")
	}
	u, err := url.Parse(input.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return call, badField("url", "url must be an absolute http:// or https:// URL")
	}
	body, err := input.bodyBytes()
	if err != nil {
		return call, err
	}
	q := &http.Request{Method: input.Method, URL: u, Header: http.Header{}}
	if q.Method == "" {
		q.Method = http.MethodGet
	}
	for name, value := range input.Headers {
		if http.CanonicalHeaderKey(name) == "Host" {
			q.Host = value
			continue
		}
		q.Header.Set(name, value)
	}
	if body != nil {
		q.Body, q.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	call = engine.Call{Request: q, Region: input.Region, RegionStrict: input.Strict}
	if call.Session, err = session.ParseField(input.Session); err != nil {
		return call, badField("session", err.Error())
	}
	if input.Priority != nil {
		if call.Priority, err = core.ParsePriority(*input.Priority); err != nil {
			return call, badField("priority", "priority: "+err.Error())
		}
	}
	if input.Retry != nil {
		if _, err = h.engine.Merge(*input.Retry); err != nil {
			return call, policyProblem("retry.", err)
		}
		call.Override = input.Retry
	}
	return call, nil
}

// bodyBytes returns the body of the request; nil for none.
func (r *requestInput) bodyBytes() ([]byte, error) {
	switch {
	case r.Body != nil && r.BodyBase64 != nil:
		return nil, badField("body", "body and body_base64 exclude each other")
	case r.Body != nil:
		return []byte(*r.Body), nil
	case r.BodyBase64 != nil:
		body, err := base64.StdEncoding.DecodeString(*r.BodyBase64)
		if err != nil {
			return nil, badField("body_base64", "body_base64 is not base64")
		}
		return body, nil
	}
	return nil, nil
}
