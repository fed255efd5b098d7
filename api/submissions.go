package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/budget"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
)

const (
	maxSubmissionsInFlight = 1000
	maxSubmissions         = 10_000   // requests in flight and ended requests together
	maxSubmissionMemory    = 64 << 20 // bytes of the bodies of requests in flight, and of all kept responses
	keepResponse           = 10 * time.Minute
	recordBytes            = 4 << 10 // estimated bytes of a submission without bodies
)

// submission is a request of POST /requests.
type submission struct {
	id      core.RequestID
	started time.Time
	cancel  context.CancelFunc
	memory  budget.Reservation // guarded by submissions.mu
	body    int                // bytes of memory for the request's body, while in flight
	removed bool               // guarded by submissions.mu

	expiry   *time.Timer   // removes an ended submission; guarded by submissions.mu, nil while in flight
	done     chan struct{} // closed when the request has ended
	response *responseView // set before done is closed; nil if err is set
	err      error         // the reason why there is no response; set before done is closed
}

// submissions holds the requests of POST /requests: those in flight, and those that ended in the last ten minutes. The
// zero value is ready for use. It is safe for concurrent use.
type submissions struct {
	memory budget.Memory

	mu       sync.Mutex // guards the fields below
	byID     map[core.RequestID]*submission
	ended    []*submission // sorted by the time at which they ended
	inFlight int
}

// begin adds a request in flight, whose body has the given number of bytes. It returns nil if a limit is reached.
func (s *submissions) begin(now time.Time, cancel context.CancelFunc, bodyBytes int) *submission {
	x := &submission{
		started: now, cancel: cancel, memory: s.memory.Reservation(), body: bodyBytes, done: make(chan struct{}),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inFlight == maxSubmissionsInFlight || !s.reserve(x, bodyBytes+recordBytes) {
		return nil
	}
	for s.inFlight+len(s.ended) >= maxSubmissions {
		s.dropLocked(s.ended[0])
	}
	s.inFlight++
	return x
}

// setID sets the id of a request in flight, so that find returns the request.
func (s *submissions) setID(x *submission, id core.RequestID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID == nil {
		s.byID = map[core.RequestID]*submission{}
	}
	x.id, s.byID[id] = id, x
}

// growMemory reserves n more bytes for a request in flight, if necessary by removing ended requests. It returns false
// if there is not enough memory, or if the request has been removed.
func (s *submissions) growMemory(x *submission, n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !x.removed && s.reserve(x, n)
}

// reserve reserves n bytes for x. The caller holds s.mu.
func (s *submissions) reserve(x *submission, n int) bool {
	for !x.memory.Grow(int64(n), maxSubmissionMemory) {
		if len(s.ended) == 0 {
			return false
		}
		s.dropLocked(s.ended[0])
	}
	return true
}

// end keeps the result of a request that is no longer in flight for keepResponse, without the request's body.
func (s *submissions) end(x *submission, response *responseView, err error) {
	x.response, x.err = response, err
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight--
	close(x.done)
	if x.removed || x.id == 0 {
		x.memory.Release()
		return
	}
	x.memory.Shrink(int64(x.body))
	s.ended = append(s.ended, x)
	x.expiry = time.AfterFunc(keepResponse, func() { s.remove(x) })
}

// find returns the request with the given id, or nil.
func (s *submissions) find(id core.RequestID) *submission {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

// remove cancels a request, if it is in flight, and removes its record. It returns false if the request was already
// removed.
func (s *submissions) remove(x *submission) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.removed {
		return false
	}
	s.dropLocked(x)
	return true
}

// dropLocked does the work of remove. The caller holds s.mu.
func (s *submissions) dropLocked(x *submission) {
	x.removed = true
	x.cancel()
	delete(s.byID, x.id)
	if i := slices.Index(s.ended, x); i >= 0 {
		s.ended = slices.Delete(s.ended, i, i+1)
		x.expiry.Stop() // a running timer would keep the response in memory
		x.memory.Release()
	}
}

// submissionView is the JSON of a submitted request that has not ended.
type submissionView struct {
	ID        string    `json:"id"`
	StartedAt time.Time `json:"started_at"`
}

func (h *sendHandler) submit(c *fiber.Ctx) error {
	call, err := h.readCall(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(h.ctx)
	x := h.submitted.begin(h.now(), cancel, len(c.Body()))
	if x == nil {
		cancel()
		p := newProblem(fiber.StatusServiceUnavailable, "too_many_submitted", fmt.Sprintf(
			"%d submitted requests or %d MiB of their bodies are in flight; wait until some have ended",
			maxSubmissionsInFlight, maxSubmissionMemory>>20))
		p.retryAfter = 1
		return p
	}
	begun := make(chan struct{})
	call.OnBegin = func(id core.RequestID) {
		h.submitted.setID(x, id)
		close(begun)
	}
	go h.runSubmission(ctx, x, call)
	select {
	case <-begun:
	case <-x.done:
		if x.id == 0 { // the request is not valid, or the gateway is shutting down
			return x.err
		}
	}
	c.Set(fiber.HeaderLocation, "/api/v1/requests/"+x.id.String()+"/response")
	c.Status(fiber.StatusAccepted)
	return send(c, viewOfSubmission(x))
}

// runSubmission performs the call of x.
func (h *sendHandler) runSubmission(ctx context.Context, x *submission, call engine.Call) {
	var view *responseView
	err := errors.New("panic")
	defer func() {
		x.cancel()
		if p := recover(); p != nil {
			h.log.Error("panic in a submitted request", slog.Any("panic", p),
				slog.String("stack", string(debug.Stack())))
		}
		h.submitted.end(x, view, err)
	}()
	view, err = h.sendRequest(ctx, call, func(bytes int) bool {
		return h.submitted.growMemory(x, bytes+bytes/3) // a third more, because the body may be kept as base64
	})
}

func (h *sendHandler) getResponse(c *fiber.Ctx) error {
	if err := requireAdmin(c); err != nil {
		return err
	}
	x, err := h.findSubmission(c)
	if err != nil {
		return err
	}
	if !waitFor(x.done, preferredWait(c.Get("Prefer"))) {
		c.Status(fiber.StatusAccepted)
		return send(c, viewOfSubmission(x))
	}
	if x.err != nil {
		return x.err
	}
	return send(c, x.response)
}

// cancel ends a request of POST /requests, if it is in flight, and discards its response.
func (h *sendHandler) cancel(c *fiber.Ctx) error {
	x, err := h.findSubmission(c)
	if err != nil {
		return err
	}
	h.submitted.remove(x)
	return c.SendStatus(fiber.StatusNoContent)
}

func (h *sendHandler) findSubmission(c *fiber.Ctx) (*submission, error) {
	text, err := pathParam(c, "id")
	if err != nil {
		return nil, err
	}
	if id, err := core.ParseRequestID(text); err == nil {
		if x := h.submitted.find(id); x != nil {
			return x, nil
		}
	}
	return nil, notFound(fmt.Sprintf("no request %q of POST /requests is in flight or has ended in the last %d minutes",
		clipText(text), int(keepResponse.Minutes())))
}

func viewOfSubmission(x *submission) submissionView {
	return submissionView{x.id.String(), x.started.UTC()}
}
