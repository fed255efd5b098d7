package api

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
)

// requestInput is a request to make through the pool.
type requestInput struct {
	Method     string            `json:"method"`
	URL        string            `json:"url"`
	Headers    map[string]string `json:"headers"`
	Body       *string           `json:"body"`
	BodyBase64 *string           `json:"body_base64"`
	Retry      *retry.Override   `json:"retry"`
	Region     string            `json:"region"`
	Strict     bool              `json:"region_strict"`
}

// requestOutput is what came back.
type requestOutput struct {
	RequestID  string                  `json:"request_id"`
	Outcome    string                  `json:"outcome"`
	Status     int                     `json:"status"`
	Headers    map[string][]string     `json:"headers"`
	Body       *string                 `json:"body,omitempty"`
	BodyBase64 *string                 `json:"body_base64,omitempty"` // when it is not UTF-8
	Truncated  bool                    `json:"truncated"`
	Attempts   []metrics.AttemptRecord `json:"attempts"`
}

// maxAnswer bounds the body of an answer given back as JSON.
const maxAnswer = 10 << 20

func (s *Server) request(c *fiber.Ctx) error {
	var in requestInput
	if err := decode(c, &in); err != nil {
		return err
	}
	call, err := s.call(&in)
	if err != nil {
		return err
	}
	result, err := s.Engine.Do(s.ctx, call)
	var bad *engine.RequestError
	if errors.As(err, &bad) {
		return refuse(400, "invalid_request", bad.Msg, nil)
	}
	if err != nil {
		return err
	}
	if result.Response == nil {
		f := result.Failure
		if result.Final == core.FinalCancelled {
			return refuse(503, "shutting_down", "the gateway is shutting down", fiber.Map{"request_id": result.ID.String(), "attempts": records(result.Attempts)})
		}
		code := f.Code
		if result.Final != core.FinalNotRetryable {
			code = result.Final.String()
		}
		if f.RetryAfter > 0 {
			c.Set(fiber.HeaderRetryAfter, strconv.Itoa(int(math.Ceil(f.RetryAfter.Seconds()))))
		}
		return refuse(f.Status, code, f.Message, fiber.Map{"request_id": result.ID.String(), "attempts": records(result.Attempts)})
	}
	r := result.Response
	body, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer+1))
	out := requestOutput{RequestID: result.ID.String(), Status: r.StatusCode, Headers: r.Header, Truncated: err != nil}
	if len(body) > maxAnswer {
		body, out.Truncated = body[:maxAnswer], true
		result.Enough() // that there is more is no fault of the proxy's
	}
	r.Body.Close()
	if utf8.Valid(body) {
		text := string(body)
		out.Body = &text
	} else {
		text := base64.StdEncoding.EncodeToString(body)
		out.BodyBase64 = &text
	}
	out.Outcome, out.Attempts = result.Final.String(), records(result.Attempts)
	return s.send(c, out)
}

func records(events []core.AttemptEvent) []metrics.AttemptRecord {
	out := make([]metrics.AttemptRecord, len(events))
	for i := range events {
		out[i] = metrics.RecordOf(&events[i])
	}
	return out
}

func (s *Server) call(in *requestInput) (engine.Call, error) {
	bad := func(field, msg string) (engine.Call, error) {
		return engine.Call{}, refuse(400, "invalid_field", field+" "+msg, fiber.Map{"field": field})
	}
	if in.Strict && in.Region == "" {
		return bad("region_strict", "needs a region")
	}
	u, err := url.Parse(in.URL)
	if err != nil || u.Host == "" {
		return bad("url", "must be an absolute http:// or https:// URL")
	}
	var body []byte
	switch {
	case in.Body != nil && in.BodyBase64 != nil:
		return bad("body", "and body_base64 exclude each other")
	case in.Body != nil:
		body = []byte(*in.Body)
	case in.BodyBase64 != nil:
		if body, err = base64.StdEncoding.DecodeString(*in.BodyBase64); err != nil {
			return bad("body_base64", "is not base64")
		}
	}
	q := &http.Request{Method: in.Method, URL: u, Header: http.Header{}}
	if q.Method == "" {
		q.Method = http.MethodGet
	}
	for name, value := range in.Headers {
		if http.CanonicalHeaderKey(name) == "Host" {
			q.Host = value
			continue
		}
		q.Header.Set(name, value)
	}
	if body != nil {
		q.Body, q.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	call := engine.Call{Request: q, Region: in.Region, RegionStrict: in.Strict}
	if in.Retry != nil {
		if call.Policy, err = s.Engine.Merge(*in.Retry); err != nil {
			return engine.Call{}, fieldError("retry.", err)
		}
	}
	return call, nil
}
