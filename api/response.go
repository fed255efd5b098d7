package api

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/changes"
	"github.com/whirlpool-proxy/whirlpool/core/state"
)

// Error is the JSON of all errors.
type Error struct {
	Error   string `json:"error"` // a stable word in snake_case
	Message string `json:"message"`
	Details any    `json:"details,omitempty"`
}

// problem is an error with the HTTP status of its response.
type problem struct {
	status     int
	body       Error
	retryAfter int64 // Retry-After of the response in seconds; 0 for none
}

func (p *problem) Error() string { return p.body.Message }

// fieldDetails is the JSON of the details of an error in one field of the input.
type fieldDetails struct {
	Field string `json:"field"`
	Limit string `json:"limit,omitempty"` // the allowed range, such as "1 to 10"
}

func newProblem(status int, code, message string) *problem {
	return &problem{status: status, body: Error{Error: code, Message: message}}
}

func notFound(message string) *problem { return newProblem(fiber.StatusNotFound, "not_found", message) }

// conflict returns a problem of input that conflicts with the current state.
func conflict(message string) *problem { return newProblem(fiber.StatusConflict, "conflict", message) }

// badField returns the problem of a wrong value in a field or a query parameter.
func badField(field, message string) error {
	return invalidField(message, fieldDetails{Field: field})
}

// outOfRange returns the problem of a value out of range. Its details contain the permitted range.
func outOfRange(field, limit, message string) error {
	return invalidField(message, fieldDetails{field, limit})
}

func invalidField(message string, details fieldDetails) *problem {
	p := newProblem(fiber.StatusBadRequest, "invalid_field", message)
	p.body.Details = details
	return p
}

func badPlugin(message string) error {
	return newProblem(fiber.StatusUnprocessableEntity, "invalid_plugin", message)
}

func badMediaType(message string) error {
	return newProblem(fiber.StatusUnsupportedMediaType, "unsupported_media_type", message)
}

func bodyTooLarge(limit int) error {
	message := fmt.Sprintf("the body is larger than %d bytes", limit)
	return newProblem(fiber.StatusRequestEntityTooLarge, "body_too_large", message)
}

// sendError is the error handler of Fiber. It also gets Fiber's own errors.
func (s *Server) sendError(c *fiber.Ctx, err error) error {
	p := s.problemOf(c, err)
	if p.retryAfter > 0 {
		c.Set(fiber.HeaderRetryAfter, strconv.FormatInt(p.retryAfter, 10))
	}
	c.Status(p.status)
	return send(c, p.body)
}

func (s *Server) problemOf(c *fiber.Ctx, err error) *problem {
	if p := knownProblem(err); p != nil {
		return p
	}
	var fiberError *fiber.Error
	if errors.As(err, &fiberError) {
		return s.fiberProblem(c, fiberError)
	}
	s.cfg.Log.Error("a request to the API failed", slog.Any("error", err), slog.String("path", clipText(c.Path())))
	return internalProblem(fiber.StatusInternalServerError)
}

// knownProblem returns the problem that err contains, or the problem for a kind of error that the API knows; nil for
// any other error.
func knownProblem(err error) *problem {
	var p *problem
	var notRecorded *changes.NotRecordedError
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, state.ErrClosed):
		return newProblem(fiber.StatusServiceUnavailable, "shutting_down", "the gateway is shutting down")
	case errors.As(err, &notRecorded):
		return newProblem(fiber.StatusInternalServerError, "not_kept", err.Error())
	case errors.Is(err, core.ErrNotFound):
		return notFound(err.Error())
	case errors.Is(err, core.ErrConflict):
		return conflict(err.Error())
	}
	return nil
}

func internalProblem(status int) *problem {
	return newProblem(status, "internal", "internal error; the log has the details")
}

// fiberProblem returns the problem for an error of Fiber. It does not use Fiber's message, which may
// contain the API key of the request.
func (s *Server) fiberProblem(c *fiber.Ctx, f *fiber.Error) *problem {
	path := clipText(c.Path())
	switch {
	case f.Code == fiber.StatusNotFound:
		return newProblem(f.Code, "not_found", "there is no endpoint "+path+"; /api/v1/openapi.json lists all")
	case f.Code == fiber.StatusMethodNotAllowed:
		message := path + " does not accept " + clientMethod(c) + "; it accepts " + c.GetRespHeader(fiber.HeaderAllow)
		return newProblem(f.Code, "method_not_allowed", message)
	case f.Code == fiber.StatusRequestEntityTooLarge:
		err := s.checkAccess(c) // without a key the body limit is lower, so a missing key may be the cause
		if err == nil {
			err = bodyTooLarge(s.bodyLimit(&c.Request().Header))
		}
		return s.problemOf(c, err)
	case f.Code == fiber.StatusRequestHeaderFieldsTooLarge:
		return newProblem(f.Code, "header_too_large", "the header is larger than 16 KiB")
	case f.Code < fiber.StatusInternalServerError:
		return newProblem(f.Code, "bad_request", "the request is not valid HTTP")
	}
	return internalProblem(f.Code)
}

func send(c *fiber.Ctx, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return sendJSON(c, append(body, '\n'))
}

// minGzipSize is the minimum number of bytes of a compressed response.
const minGzipSize = 1 << 10

// sendJSON responds with a JSON document. A response to a successful GET has an ETag, and gzip if the client accepts it
// and the response has at least minGzipSize bytes. A client that already has this response (If-None-Match) gets a 304
// (RFC 9110 section 13.1.2).
func sendJSON(c *fiber.Ctx, body []byte) error {
	c.Set(fiber.HeaderContentType, fiber.MIMEApplicationJSON)
	c.Set(fiber.HeaderCacheControl, "no-store")
	if !isReadOnly(c) || c.Response().StatusCode() != fiber.StatusOK {
		return c.Send(body)
	}
	sum := sha256.Sum256(body)
	tag := fmt.Sprintf(`W/"%x"`, sum[:12]) // weak, because the compressed form has other bytes
	c.Set(fiber.HeaderETag, tag)
	c.Set(fiber.HeaderVary, fiber.HeaderAcceptEncoding)
	if matchesETag(c.Get(fiber.HeaderIfNoneMatch), tag) {
		c.Status(fiber.StatusNotModified)
		return nil
	}
	if len(body) >= minGzipSize && c.Request().Header.HasAcceptEncoding("gzip") {
		c.Set(fiber.HeaderContentEncoding, "gzip")
		body = fasthttp.AppendGzipBytesLevel(nil, body, fasthttp.CompressBestSpeed)
	}
	return c.Send(body)
}

// matchesETag reports whether an If-None-Match field contains the entity tag or "*". The prefix W/ is ignored.
func matchesETag(field, tag string) bool {
	for _, t := range strings.Split(field, ",") {
		if t = strings.TrimSpace(t); t == "*" || strings.TrimPrefix(t, "W/") == strings.TrimPrefix(tag, "W/") {
			return true
		}
	}
	return false
}

// clipText shortens a text of the client to 100 bytes for a quotation in a message.
func clipText(s string) string { return clipTo(s, 100) }

// clipTo shortens a text of the client to a number of bytes.
func clipTo(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
