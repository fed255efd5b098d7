package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/utils"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/eventstream"
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
	eventPolicy     = "policy" // the global policy has changed
	eventBan        = "ban"    // a rest or a ban of a proxy begins, gets a later end, or is ended by the API
	eventReload     = "reload" // the configuration was reloaded, or the reload failed
	eventLost       = "lost"   // sent to a reader that has missed events which are not kept any more
)

// eventTypes are the types that a client can ask for.
var eventTypes = []string{eventBreaker, eventPluginLog, eventFault, eventQuarantine, eventActivation, eventPolicy,
	eventReload, eventBan}

// Events holds the last events of the gateway, for GET /events. Each method adds one event and does not
// block.
type Events struct {
	stream eventstream.Stream
	now    func() time.Time
	life   string // the first part of each id; each process has another one
}

// NewEvents returns a list without events.
func NewEvents(now func() time.Time) *Events {
	return &Events{now: now, life: strconv.FormatInt(now().UnixMilli(), 36)}
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
}

// PolicyChanged adds a new global policy.
func (e *Events) PolicyChanged(v retry.View) { e.publish(eventPolicy, viewOfGlobalPolicy(v)) }

// Banned adds a rest (host is the target's host) or a ban (host is "") of a proxy that ends at until. An end that is
// not in the future means that the API has ended it.
func (e *Events) Banned(proxyID, host string, until time.Time) {
	e.publish(eventBan, struct {
		At      time.Time `json:"at"`
		ProxyID string    `json:"proxy_id"`
		Host    string    `json:"host"`
		Until   time.Time `json:"until"`
	}{e.now().UTC(), proxyID, host, until.UTC()})
}

// Reloaded adds a reload of the configuration.
func (e *Events) Reloaded(s ReloadStatus) { e.publish(eventReload, s) }

// id returns the value of the field id of an event.
func (e *Events) id(n uint64) string { return e.life + "-" + strconv.FormatUint(n, 10) }

// after returns the position in the stream after the event with the given id, the last one that a client has
// received. An id of another process stands for the position before the first event.
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
	heartbeatEvery = 15 * time.Second // time without data after which a comment is sent
	eventTimeout   = 10 * time.Second // time for the client to read the data, after which the connection ends
	reconnectAfter = 2 * time.Second  // value of the field retry: the wait of a client before it connects again
)

// eventHandler serves GET /events: server-sent events (WHATWG HTML, section 9.2).
type eventHandler struct {
	events *Events
	ended  context.Context // ends with Shutdown
	// admits reports whether an Authorization header permits reading. If there is none, the names in a client
	// certificate decide.
	admits func(header string, names []string) bool
}

func (h *eventHandler) routes(r fiber.Router) { r.Get("/events", h.get) }

func (h *eventHandler) get(c *fiber.Ctx) error {
	wanted, err := wantedTypes(c)
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
	b := &eventBody{events: h.events, reader: reader, conn: c.Context().Conn(), sent: after}
	header := utils.CopyString(c.Get(fiber.HeaderAuthorization)) // a copy, used after the handler has returned
	names := clientNames(c)
	b.admitted = func() bool { return h.admits(header, names) }
	b.ctx, b.cancel = context.WithCancel(h.ended)
	b.pending = fmt.Appendf(nil, "retry: %d\n\n", reconnectAfter.Milliseconds())
	if lost > 0 {
		b.pending = fmt.Appendf(b.pending, "event: %s\ndata: {\"events\":%d}\n\n", eventLost, lost)
	}
	_ = b.conn.SetReadDeadline(time.Time{}) // removes the request's deadline; if it fails, Read fails
	if held, ok := b.conn.(*conn); ok {
		held.hold()
		b.release, b.conn = held.release, held.Conn // no further request is read from the connection
	}
	go b.awaitDeparture()
	c.Context().SetConnectionClose()
	c.Context().SetBodyStream(b, -1)
	return nil
}

// wantedTypes returns the types of the query: ?type=A,B or ?type=A&type=B; nil for all. A query with another
// parameter is an error, because ignoring the parameter would give all events.
func wantedTypes(c *fiber.Ctx) (func(string) bool, error) {
	var wanted []string
	for name := range c.Queries() {
		if name != "type" {
			name = clip(name)
			return nil, badField(name, "there is no query parameter "+name+"; the only one is type")
		}
	}
	for _, value := range c.Context().QueryArgs().PeekMulti("type") {
		for _, t := range strings.Split(string(value), ",") {
			if !slices.Contains(eventTypes, t) {
				return nil, badField("type", "type must be one of "+strings.Join(eventTypes, ", "))
			}
			wanted = append(wanted, t)
		}
	}
	if wanted == nil {
		return nil, nil
	}
	return func(t string) bool { return slices.Contains(wanted, t) }, nil
}

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

	pending []byte // encoded, not yet read by the server
	sent    uint64 // the position of the last id that the client has received
}

var _ io.ReadCloser = (*eventBody)(nil)

// awaitDeparture ends the body when the client closes the connection. The client sends no more data after its
// request.
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
		b.pending = fmt.Appendf(b.pending, "id: %s\nevent: %s\ndata: %s\n\n", b.events.id(e.ID), e.Type, e.Data)
		b.sent = e.ID
	}
	if heartbeat {
		b.pending = append(b.pending, ": heartbeat\n"...)
		// An id without data moves the client's position past events of types that it has not asked for
		// (section 9.2.6).
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
