package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/utils"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/eventstream"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/output"
)

// The types of events.
const (
	eventBreaker    = "breaker"    // a transition of a breaker
	eventPluginLog  = "plugin_log" // a log line of a plugin
	eventFault      = "plugin_fault"
	eventQuarantine = "plugin_quarantine"
	eventActivation = "activation"
	eventPolicy     = "policy"     // the global policy has changed
	eventBan        = "ban"        // a rest or a ban begins, gets a later end, or is ended by the API
	eventReload     = "reload"     // the configuration was reloaded, or the reload failed
	eventChange     = "change"     // a change through the API, with the name of its API key
	eventExhaustion = "exhaustion" // a request has ended as exhausted; at most one event a second
	eventRequest    = "request"    // a sampled event: a request has ended
	eventAttempt    = "attempt"    // a sampled event: an attempt has ended
	eventLost       = "lost"       // sent to a reader that has missed events which are not kept any more
)

// eventTypes are the types that a client can ask for.
var eventTypes = []string{eventBreaker, eventPluginLog, eventFault, eventQuarantine, eventActivation, eventPolicy,
	eventReload, eventBan, eventExhaustion, eventChange, eventRequest, eventAttempt}

// onlyOnRequest are the types that a client gets only if it asks for them. Clients that were written for earlier
// versions of the gateway do not expect an event of the type change in addition to an event of the type policy,
// activation or ban. Events of the types request and attempt are as frequent as requests.
var onlyOnRequest = []string{eventChange, eventRequest, eventAttempt}

// sampledTypes are the types of the events that are not kept and have no id.
var sampledTypes = []string{eventRequest, eventAttempt}

// Events holds the last events of the gateway, for GET /events. Each exported method adds one event and does not
// block.
type Events struct {
	stream eventstream.Stream
	now    func() time.Time
	life   string // the first part of each event's id; it is different in each process
	marks  marks

	exhaustions exhaustions
}

var _ metrics.Observer = (*Events)(nil)

// NewEvents returns a list without events.
func NewEvents(now func() time.Time) *Events {
	e := &Events{now: now, life: strconv.FormatInt(now().UnixMilli(), 36)}
	e.exhaustions.publish = func(v *exhaustionView) { e.publish(eventExhaustion, v) }
	e.mark(markStart, "the gateway has started")
	return e
}

func (e *Events) publish(eventType string, view any) {
	data, err := json.Marshal(view)
	if err != nil {
		return // cannot happen: all views can be encoded as JSON
	}
	e.stream.Publish(eventType, data)
}

// Transition adds a transition of a breaker.
func (e *Events) Transition(t core.Transition) { e.publish(eventBreaker, viewOfTransition(t)) }

// PluginLine adds a log line of a plugin.
func (e *Events) PluginLine(plugin string, l output.Line) {
	e.publish(eventPluginLog, struct {
		Plugin string `json:"plugin"`
		lineView
	}{plugin, viewOfLine(l)})
}

// PluginFault adds a report on failed calls of a plugin.
func (e *Events) PluginFault(f plugins.FaultReport) {
	eventType := eventFault
	if f.Quarantined {
		eventType = eventQuarantine
	}
	e.publish(eventType, struct {
		Plugin string    `json:"plugin"`
		At     time.Time `json:"at"`
		Reason string    `json:"reason"`
		Error  string    `json:"error"`
		Faults uint64    `json:"faults"` // since the plugin's last event of this type
		Calls  uint64    `json:"calls"`  // since the plugin's last event of this type
	}{f.Plugin, f.At.UTC(), f.Reason, f.Err.Error(), f.Faults, f.Calls})
}

// Activated adds the activation of a plugin for a use: first, retry, backoff or judge.
func (e *Events) Activated(use, plugin string) {
	e.publish(eventActivation, struct {
		At     time.Time `json:"at"`
		For    string    `json:"for"`
		Plugin string    `json:"plugin"`
	}{e.now().UTC(), use, plugin})
	e.mark(eventActivation, plugin+" is used for "+use)
}

// PolicyChanged adds a new global policy.
func (e *Events) PolicyChanged(v retry.View) {
	e.publish(eventPolicy, viewOfGlobalPolicy(v))
	text := "the retry policy has changed"
	if v.Source == retry.SourceFile {
		text = "the retry policy is that of the configuration"
	}
	e.mark(eventPolicy, text)
}

// Banned adds a rest (host is the target's host) or a ban (host is "") of a proxy that ends at until. If until is not
// in the future, the API has ended the rest or ban.
func (e *Events) Banned(proxyID, host string, until time.Time) {
	e.publish(eventBan, struct {
		At      time.Time `json:"at"`
		ProxyID string    `json:"proxy_id"`
		Host    string    `json:"host"`
		Until   time.Time `json:"until"`
	}{e.now().UTC(), proxyID, host, until.UTC()})
}

// changed adds a change through the API. The parameter key is the name of the API key that the request had; "" for
// none.
func (e *Events) changed(method, path, key string) {
	e.publish(eventChange, struct {
		At     time.Time `json:"at"`
		Key    string    `json:"key"`
		Method string    `json:"method"`
		Path   string    `json:"path"`
	}{e.now().UTC(), key, method, path})
}

// Reloaded adds a reload of the configuration.
func (e *Events) Reloaded(s ReloadStatus) {
	e.publish(eventReload, s)
	text := "the configuration was reloaded"
	if !s.OK {
		text = "the configuration was not reloaded, because it has errors"
	}
	e.mark(eventReload, text)
}

// id returns the value of the field id of an event.
func (e *Events) id(n uint64) string { return e.life + "-" + strconv.FormatUint(n, 10) }

// after returns the number of the event with the given id, which is the last event that a client has received. If the
// id is from another process, or the event does not exist, it returns 0: the position before the first event.
func (e *Events) after(id string) uint64 {
	if number, ok := strings.CutPrefix(id, e.life+"-"); ok {
		if n, err := strconv.ParseUint(number, 10, 64); err == nil && n <= e.stream.Last() && e.id(n) == id {
			return n
		}
	}
	return 0
}

// Times of a connection that reads events.
const (
	heartbeatEvery = 15 * time.Second // after this time without data a comment is sent; clients ignore comments
	eventTimeout   = 10 * time.Second // time for the client to read the data, after which the connection ends
	reconnectAfter = 2 * time.Second  // value of the field retry: the wait of a client before it connects again
)

// eventHandler serves GET /events: server-sent events (WHATWG HTML, section 9.2).
type eventHandler struct {
	events *Events
	ended  context.Context // ends with Shutdown
	// admits reports whether an Authorization header permits reading. If the header is "", the names in the client's
	// certificate decide.
	admits func(header string, names []string) bool
}

func (h *eventHandler) routes(r fiber.Router) { r.Get("/events", h.get) }

func (h *eventHandler) get(c *fiber.Ctx) error {
	wanted, err := wantedTypes(c)
	if err != nil {
		return err
	}
	share, err := sampleShare(c, wanted)
	if err != nil {
		return err
	}
	c.Set(fiber.HeaderContentType, "text/event-stream")
	c.Set("X-Accel-Buffering", "no") // so that nginx as a reverse proxy does not buffer the events
	if c.Method() == fiber.MethodHead {
		return nil
	}
	after, lastID := h.events.stream.Last(), c.Get("Last-Event-ID")
	if lastID != "" {
		after = h.events.after(lastID)
	}
	reader, lost, err := h.events.stream.Subscribe(after, wanted)
	switch {
	case errors.Is(err, eventstream.ErrTooManyReaders):
		return newProblem(fiber.StatusTooManyRequests, "too_many_readers", fmt.Sprintf(
			"%d clients read the events; as many may at a time", eventstream.MaxReaders))
	case err != nil:
		return newProblem(fiber.StatusServiceUnavailable, "shutting_down", "the gateway is shutting down")
	}
	if slices.ContainsFunc(sampledTypes, wanted) {
		reader.Sample(func(eventType string, request uint64) bool {
			return wanted(eventType) && core.RequestID(request).Sampled(share)
		})
	}
	b := &eventBody{events: h.events, reader: reader, conn: c.Context().Conn(), sent: after}
	header := utils.CopyString(c.Get(fiber.HeaderAuthorization)) // a copy, used after the handler has returned
	names := clientNames(c)
	b.admitted = func() bool { return h.admits(header, names) }
	b.ctx, b.cancel = context.WithCancel(h.ended)
	b.pending = fmt.Appendf(nil, "retry: %d\n\n", reconnectAfter.Milliseconds())
	if lost > 0 {
		b.pending = fmt.Appendf(b.pending, "event: %s\ndata: {\"events\":%d}\n\n", eventLost, lost)
	}
	_ = b.conn.SetReadDeadline(time.Time{}) // removes the request's deadline; if this fails, Read fails
	if held, ok := b.conn.(*conn); ok {
		held.hold()
		b.release, b.conn = held.release, held.Conn // no request after this one is read from the connection
	}
	go b.awaitDeparture()
	c.Context().SetConnectionClose()
	c.Context().SetBodyStream(b, -1)
	return nil
}

// wantedTypes returns the types of the query: ?type=A,B or ?type=A&type=B; by default all except onlyOnRequest.
func wantedTypes(c *fiber.Ctx) (func(string) bool, error) {
	var wanted []string
	for _, value := range queryAll(c, "type") {
		for _, t := range strings.Split(value, ",") {
			if !slices.Contains(eventTypes, t) {
				return nil, badField("type", "type must be one of "+strings.Join(eventTypes, ", "))
			}
			wanted = append(wanted, t)
		}
	}
	if wanted == nil {
		return func(t string) bool { return !slices.Contains(onlyOnRequest, t) }, nil
	}
	return func(t string) bool { return slices.Contains(wanted, t) }, nil
}

// sampleShare returns the parameter sample: the share of the requests, from 0 to 1, whose sampled events are sent.
func sampleShare(c *fiber.Ctx, wanted func(string) bool) (float64, error) {
	text, given := query(c, "sample")
	if !given {
		return 1, nil
	}
	if !slices.ContainsFunc(sampledTypes, wanted) {
		return 0, badField("sample", "sample needs type="+strings.Join(sampledTypes, " or type="))
	}
	share, err := strconv.ParseFloat(text, 64)
	if err != nil || !(share >= 0 && share <= 1) || !sampleForm.MatchString(text) {
		return 0, outOfRange("sample", "0 to 1", "sample must be one number from 0 to 1, such as 0.01")
	}
	return share, nil
}

// sampleForm matches a number in the form of JSON, without a sign.
var sampleForm = regexp.MustCompile(`^\d+(\.\d+)?([eE][-+]?\d+)?$`)

// eventBody is the body of a response to GET /events. It ends when the client leaves or is too slow, when its
// key is not valid any more, or when the server shuts down.
type eventBody struct {
	events   *Events
	reader   *eventstream.Reader
	conn     net.Conn
	admitted func() bool
	ctx      context.Context
	cancel   context.CancelFunc
	release  func() // ends the effect of conn.hold; may be nil

	pending []byte // encoded events that the server has not read yet
	sent    uint64 // position in the stream of the last id that was added to pending
}

var _ io.ReadCloser = (*eventBody)(nil)

// awaitDeparture ends the body when the client closes the connection. A client sends no data after its request, so
// Read returns only when the connection ends.
func (b *eventBody) awaitDeparture() {
	var p [1]byte
	_, _ = b.conn.Read(p[:])
	b.cancel()
}

// Read blocks until an event or the next heartbeat. The server must write the returned bytes to the
// connection within eventTimeout.
func (b *eventBody) Read(p []byte) (int, error) {
	ended := false
	for len(b.pending) == 0 && !ended {
		ended = !b.fill()
	}
	if err := b.conn.SetWriteDeadline(time.Now().Add(eventTimeout)); err != nil {
		return 0, err
	}
	if ended {
		return 0, io.EOF
	}
	n := copy(p, b.pending)
	b.pending = b.pending[n:]
	return n, nil
}

// fill waits for events and encodes them into pending. It returns false when the body ends.
func (b *eventBody) fill() bool {
	ctx, cancel := context.WithTimeout(b.ctx, heartbeatEvery)
	defer cancel()
	events, at, err := b.reader.Next(ctx)
	heartbeat := errors.Is(err, context.DeadlineExceeded)
	if err != nil && !heartbeat || b.ctx.Err() != nil || !b.admitted() {
		return false
	}
	for _, e := range events {
		position := e.ID
		if position == 0 { // a sampled event: it follows all events up to the position at
			position = at
		}
		if position != b.sent {
			b.pending = fmt.Appendf(b.pending, "id: %s\n", b.events.id(position))
			b.sent = position
		}
		b.pending = fmt.Appendf(b.pending, "event: %s\ndata: %s\n\n", e.Type, e.Data)
	}
	if heartbeat {
		b.pending = append(b.pending, ": heartbeat\n"...)
		// An id without data moves the client's position past events of types that the client has not asked for
		// (WHATWG HTML, section 9.2.6).
		if at != b.sent {
			b.pending = fmt.Appendf(b.pending, "id: %s\n", b.events.id(at))
			b.sent = at
		}
		b.pending = append(b.pending, '\n')
	}
	return true
}

// Close implements io.Closer. The server calls it when the response has ended.
func (b *eventBody) Close() error {
	b.cancel()
	b.reader.Close()
	if b.release != nil {
		b.release()
	}
	return nil
}
