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
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/utils"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/cluster"
	"github.com/whirlpool-proxy/whirlpool/core/eventstream"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
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
	eventBan        = "ban"        // a ban begins, gets a later end, or is ended by the API
	eventReload     = "reload"     // the configuration was reloaded, or the reload failed
	eventChange     = "change"     // a change through the API of a node, with the name of its API key
	eventExhaustion = "exhaustion" // no proxy was left for a request; at most one event of an outcome a second
	eventRequest    = "request"    // a sampled event: a request has ended
	eventAttempt    = "attempt"    // a sampled event: an attempt has ended
	eventLost       = "lost"       // sent to a reader that has missed events which are not kept any more
)

// eventTypes are the types that a client can ask for.
var eventTypes = []string{eventBreaker, eventPluginLog, eventFault, eventQuarantine, eventActivation, eventPolicy,
	eventReload, eventBan, eventExhaustion, eventChange, eventRequest, eventAttempt}

// optInTypes are the types that a client gets only if it asks for them. Sampled events are as frequent as requests.
// Events of type "change" repeat others: a change of the policy, for example, causes an event of type "policy", too,
// and older clients expect only this one.
var optInTypes = []string{eventChange, eventRequest, eventAttempt}

// sampledTypes are the types of the events that are not kept and have no id.
var sampledTypes = []string{eventRequest, eventAttempt}

// Events holds the last events of the gateway, for GET /events. Each exported method adds one event and does not
// block.
type Events struct {
	stream   eventstream.Stream
	now      func() time.Time
	idPrefix string // different in each process
	marks    marks

	reloads     atomic.Uint64 // number of reloads
	exhaustions exhaustions
}

var _ metrics.Observer = (*Events)(nil)

// NewEvents returns a list without events.
func NewEvents(now func() time.Time) *Events {
	e := &Events{now: now, idPrefix: strconv.FormatInt(now().UnixMilli(), 36)}
	e.exhaustions.publish = func(v *exhaustionView) { e.publish(eventExhaustion, v) }
	e.addMark(markStart, "the gateway has started")
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

// PluginActivated adds the activation of a plugin. The parameter use is the place where the plugin is used: "first",
// "retry", "backoff" or "judge".
func (e *Events) PluginActivated(use, plugin string) {
	e.publish(eventActivation, struct {
		At     time.Time `json:"at"`
		For    string    `json:"for"`
		Plugin string    `json:"plugin"`
	}{e.now().UTC(), use, plugin})
	e.addMark(eventActivation, plugin+" is used for "+use)
}

// PolicyChanged adds a new global policy.
func (e *Events) PolicyChanged(v retry.View) {
	e.publish(eventPolicy, viewOfGlobalPolicy(v))
	text := "the retry policy has changed"
	if v.Source == retry.SourceFile {
		text = "the retry policy is that of the configuration"
	}
	e.addMark(eventPolicy, text)
}

// ProxyBanned adds the ban of a proxy or, if until is not in the future, the end of a ban by the API. If host is not
// "", the proxy is banned only for this host.
func (e *Events) ProxyBanned(proxyID, host string, until time.Time) {
	e.publish(eventBan, struct {
		At      time.Time `json:"at"`
		ProxyID string    `json:"proxy_id"`
		Host    string    `json:"host"`
		Until   time.Time `json:"until"`
	}{e.now().UTC(), proxyID, host, until.UTC()})
}

// Audited adds a change that was made through the API of this gateway or of another node of its cluster.
func (e *Events) Audited(entry cluster.AuditEntry) { e.publish(eventChange, viewOfAudit(&entry)) }

// ConfigReloaded adds a reload of the configuration.
func (e *Events) ConfigReloaded(s ReloadStatus) {
	e.reloads.Add(1)
	e.publish(eventReload, s)
	text := "the configuration was reloaded"
	if !s.OK {
		text = "the configuration was not reloaded, because it has errors"
	}
	e.addMark(eventReload, text)
}

func (e *Events) eventID(n uint64) string { return e.idPrefix + "-" + strconv.FormatUint(n, 10) }

// position returns the number of the event with the given id. If the id is unknown or from another process, it returns
// 0: the client then gets all kept events.
func (e *Events) position(id string) uint64 {
	if number, ok := strings.CutPrefix(id, e.idPrefix+"-"); ok {
		if n, err := strconv.ParseUint(number, 10, 64); err == nil && n <= e.stream.LastID() && e.eventID(n) == id {
			return n
		}
	}
	return 0
}

// Times of a connection that reads events.
const (
	heartbeatInterval = 15 * time.Second // after this time without data, the server sends a comment
	eventWriteTimeout = 10 * time.Second // maximum time for the client to read the data
	reconnectDelay    = 2 * time.Second  // wait of a client before it connects again (the field retry)
)

// eventHandler serves GET /events: server-sent events (WHATWG HTML, section 9.2).
type eventHandler struct {
	events *Events
	ctx    context.Context // ends with Shutdown
	// canRead is Server.canRead.
	canRead func(header string, names []string) bool
	live    *live
}

func (h *eventHandler) routes(r fiber.Router) { r.Get("/events", h.get) }

func (h *eventHandler) get(c *fiber.Ctx) error {
	wantsType, err := parseTypes(c)
	if err != nil {
		return err
	}
	share, err := parseSample(c, wantsType)
	if err != nil {
		return err
	}
	c.Set(fiber.HeaderContentType, "text/event-stream")
	c.Set("X-Accel-Buffering", "no") // so that nginx as a reverse proxy does not buffer the events
	if c.Method() == fiber.MethodHead {
		return nil
	}
	position, lastID := h.events.stream.LastID(), c.Get("Last-Event-ID")
	if lastID != "" {
		position = h.events.position(lastID)
	}
	reader, lostEvents, err := h.events.stream.Subscribe(position, wantsType)
	switch {
	case errors.Is(err, eventstream.ErrTooManyReaders):
		return newProblem(fiber.StatusTooManyRequests, "too_many_readers", fmt.Sprintf(
			"%d clients read the events; as many may at a time", eventstream.MaxReaders))
	case err != nil:
		return newProblem(fiber.StatusServiceUnavailable, "shutting_down", "the gateway is shutting down")
	}
	if slices.ContainsFunc(sampledTypes, wantsType) {
		reader.SetSampler(func(eventType string, request uint64) bool {
			return wantsType(eventType) && core.RequestID(request).InSample(share)
		})
	}
	body := &eventBody{
		events: h.events, reader: reader, conn: c.Context().Conn(), wantsType: wantsType, lastSent: position,
		lastData: time.Now(),
	}
	if slices.ContainsFunc(liveTypes, wantsType) {
		body.live, body.nextLive = h.live, body.lastData
	}
	authorization := utils.CopyString(c.Get(fiber.HeaderAuthorization)) // a copy, used after the handler has returned
	names := clientNames(c)
	body.canRead = func() bool { return h.canRead(authorization, names) }
	body.ctx, body.cancel = context.WithCancel(h.ctx)
	body.pending = fmt.Appendf(nil, "retry: %d\n\n", reconnectDelay.Milliseconds())
	if lostEvents > 0 {
		body.appendLost(lostEvents)
	}
	_ = body.conn.SetReadDeadline(time.Time{}) // removes the request's deadline; if this fails, Read fails
	if client, ok := body.conn.(*conn); ok {
		client.beginUse()
		body.endUse, body.conn = client.endUse, client.Conn // no request after this one is read from the connection
	}
	go body.awaitClientClose()
	c.Context().SetConnectionClose()
	c.Context().SetBodyStream(body, -1)
	return nil
}

// parseTypes reads the types of events that a query asks for: ?type=A,B or ?type=A&type=B. The default is all types
// except optInTypes and liveTypes.
func parseTypes(c *fiber.Ctx) (func(string) bool, error) {
	var wanted []string
	for _, value := range queryValues(c, "type") {
		for _, t := range strings.Split(value, ",") {
			if all := slices.Concat(eventTypes, liveTypes); !slices.Contains(all, t) {
				return nil, badField("type", "type must be one of "+strings.Join(all, ", ")+strict.DidYouMean(t, all))
			}
			wanted = append(wanted, t)
		}
	}
	if wanted == nil {
		return func(t string) bool { return !slices.Contains(optInTypes, t) && !slices.Contains(liveTypes, t) }, nil
	}
	return func(t string) bool { return slices.Contains(wanted, t) }, nil
}

// parseSample returns the value of the query parameter "sample": a number from 0 to 1. Only this share of the requests
// causes sampled events.
func parseSample(c *fiber.Ctx, wantsType func(string) bool) (float64, error) {
	text, given := queryValue(c, "sample")
	if !given {
		return 1, nil
	}
	if !slices.ContainsFunc(sampledTypes, wantsType) {
		return 0, badField("sample", "sample needs type="+strings.Join(sampledTypes, " or type="))
	}
	share, err := strconv.ParseFloat(text, 64)
	if err != nil || !(share >= 0 && share <= 1) || !sampleForm.MatchString(text) {
		return 0, outOfRange("sample", "0 to 1", "sample must be one number from 0 to 1, such as 0.01")
	}
	return share, nil
}

// sampleForm matches a JSON number without a sign.
var sampleForm = regexp.MustCompile(`^\d+(\.\d+)?([eE][-+]?\d+)?$`)

// eventBody is the body of a response to GET /events. It ends when the client leaves or is too slow, when its
// key is not valid any more, or when the server shuts down.
type eventBody struct {
	events  *Events
	reader  *eventstream.Reader
	conn    net.Conn
	canRead func() bool
	ctx     context.Context
	cancel  context.CancelFunc
	endUse  func() // conn.endUse; may be nil

	pending  []byte // encoded events that Read has not returned yet
	lastSent uint64 // position of the last id that was added to pending
	lastData time.Time

	live      *live             // nil if the client has not asked for live events
	wantsType func(string) bool // the types that the client has asked for
	nextLive  time.Time         // time of the next live events
	lastLive  liveState         // the state of the last live events
}

var _ io.ReadCloser = (*eventBody)(nil)

// awaitClientClose ends the body when the client closes the connection. The client sends no data after its request, so
// conn.Read returns only at the end of the connection.
func (b *eventBody) awaitClientClose() {
	var p [1]byte
	_, _ = b.conn.Read(p[:])
	b.cancel()
}

// Read blocks until an event or the next heartbeat. The server must write the returned bytes within eventWriteTimeout.
func (b *eventBody) Read(p []byte) (int, error) {
	ended := false
	for len(b.pending) == 0 && !ended {
		ended = !b.waitForEvents()
	}
	if err := b.conn.SetWriteDeadline(time.Now().Add(eventWriteTimeout)); err != nil {
		return 0, err
	}
	if ended {
		return 0, io.EOF
	}
	n := copy(p, b.pending)
	b.pending = b.pending[n:]
	return n, nil
}

func (b *eventBody) appendLost(events uint64) {
	b.pending = fmt.Appendf(b.pending, "event: %s\ndata: {\"events\":%d}\n\n", eventLost, events)
}

// waitForEvents waits for events, and encodes them into pending. It returns false at the end of the body.
func (b *eventBody) waitForEvents() bool {
	until := b.lastData.Add(heartbeatInterval)
	if b.live != nil && b.nextLive.Before(until) {
		until = b.nextLive
	}
	ctx, cancel := context.WithDeadline(b.ctx, until)
	defer cancel()
	events, streamPosition, err := b.reader.Next(ctx)
	if errors.Is(err, eventstream.ErrSlow) && b.live != nil {
		// A client of live events needs no missed events, because it shows the current state.
		var lost uint64
		lost, events, streamPosition, err = b.reader.SkipLost()
		if lost > 0 && slices.ContainsFunc(eventTypes, b.wantsType) {
			b.appendLost(lost)
		}
	}
	waited := errors.Is(err, context.DeadlineExceeded)
	if err != nil && !waited || b.ctx.Err() != nil || !b.canRead() {
		return false
	}
	for _, e := range events {
		position := e.ID
		if position == 0 { // a sampled event
			position = streamPosition
		}
		if position != b.lastSent {
			b.pending = fmt.Appendf(b.pending, "id: %s\n", b.events.eventID(position))
			b.lastSent = position
		}
		b.pending = fmt.Appendf(b.pending, "event: %s\ndata: %s\n\n", e.Type, e.Data)
	}
	now := time.Now()
	if b.live != nil && !now.Before(b.nextLive) {
		state := b.live.nextState(b.wantsType, b.lastLive)
		b.pending = b.live.appendChanges(b.pending, b.lastLive, state)
		b.lastLive, b.nextLive = state, now.Add(liveInterval)
	}
	if len(b.pending) == 0 && !now.Before(b.lastData.Add(heartbeatInterval)) {
		b.pending = append(b.pending, ": heartbeat\n"...)
		// An id without data moves the client's position past events of types that the client has not asked for
		// (WHATWG HTML, section 9.2.6).
		if streamPosition != b.lastSent {
			b.pending = fmt.Appendf(b.pending, "id: %s\n", b.events.eventID(streamPosition))
			b.lastSent = streamPosition
		}
		b.pending = append(b.pending, '\n')
	}
	if len(b.pending) > 0 {
		b.lastData = now
	}
	return true
}

// Close implements io.Closer. The server calls it when the response has ended.
func (b *eventBody) Close() error {
	b.cancel()
	b.reader.Close()
	if b.endUse != nil {
		b.endUse()
	}
	return nil
}
