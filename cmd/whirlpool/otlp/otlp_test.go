package otlp

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/accesslog"
	"github.com/whirlpool-proxy/whirlpool/core/trace"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

func record() *accesslog.Record {
	c, _ := trace.Parse([]byte("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
	return &accesslog.Record{ID: 0xab, Listener: core.ListenHTTP, Method: "GET", Target: "a.test:80", Status: 200,
		Final: core.FinalSuccess, Executed: true, Received: 7, Started: noon, Ended: noon.Add(time.Second), Trace: c,
		Attempts: []core.AttemptEvent{
			{ProxyID: "p1", Started: noon, Ended: noon.Add(time.Millisecond), Outcome: core.Outcome{
				Cause: verdict.ProxyUnreachable, Result: core.ResultFailure, Err: errors.New("refused")}},
			{ProxyID: "p2", Attempt: 1, Hedge: true, Started: noon, Ended: noon.Add(time.Second), Outcome: core.Outcome{
				Cause: verdict.Answered, Result: core.ResultSuccess, Status: 200}},
		}}
}

// collector records the bodies that it receives.
type collector struct {
	*httptest.Server
	mu     sync.Mutex
	bodies []string
	status int
}

func newCollector(t *testing.T) *collector {
	c := &collector{status: 200}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.bodies = append(c.bodies, q.Header.Get("Content-Type")+" "+string(body))
		w.WriteHeader(c.status)
		io.WriteString(w, `{"partialSuccess":{}}`)
	}))
	t.Cleanup(c.Close)
	return c
}

const spans = `application/json {"resourceSpans":[{"resource":{"attributes":[` +
	`{"key":"service.name","value":{"stringValue":"whirlpool"}},` +
	`{"key":"service.version","value":{"stringValue":"1.2"}}]},"scopeSpans":[{"scope":{"name":"whirlpool",` +
	`"version":"1.2"},"spans":[{"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","spanId":"REQUEST",` +
	`"parentSpanId":"00f067aa0ba902b7","name":"GET","kind":2,"startTimeUnixNano":"1795953600000000000",` +
	`"endTimeUnixNano":"1795953601000000000","attributes":[` +
	`{"key":"http.request.method","value":{"stringValue":"GET"}},` +
	`{"key":"whirlpool.request_id","value":{"stringValue":"00000000000000ab"}},` +
	`{"key":"whirlpool.outcome","value":{"stringValue":"success"}},` +
	`{"key":"whirlpool.listener","value":{"stringValue":"http"}},` +
	`{"key":"whirlpool.attempts","value":{"intValue":"2"}},{"key":"http.request.body.size","value":{"intValue":"7"}},` +
	`{"key":"server.address","value":{"stringValue":"a.test"}},{"key":"server.port","value":{"intValue":"80"}},` +
	`{"key":"http.response.status_code","value":{"intValue":"200"}}],"status":{}},` +
	`{"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","spanId":"FIRST","parentSpanId":"REQUEST","name":"attempt",` +
	`"kind":3,` +
	`"startTimeUnixNano":"1795953600000000000","endTimeUnixNano":"1795953600001000000","attributes":[` +
	`{"key":"whirlpool.proxy_id","value":{"stringValue":"p1"}},` +
	`{"key":"whirlpool.cause","value":{"stringValue":"proxy_unreachable"}},` +
	`{"key":"http.request.resend_count","value":{"intValue":"0"}},` +
	`{"key":"error.type","value":{"stringValue":"proxy_unreachable"}}],"status":{"code":2,"message":"refused"}},` +
	`{"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","spanId":"SECOND","parentSpanId":"REQUEST","name":"attempt",` +
	`"kind":3,` +
	`"startTimeUnixNano":"1795953600000000000","endTimeUnixNano":"1795953601000000000","attributes":[` +
	`{"key":"whirlpool.proxy_id","value":{"stringValue":"p2"}},` +
	`{"key":"whirlpool.cause","value":{"stringValue":"answered"}},` +
	`{"key":"http.request.resend_count","value":{"intValue":"1"}},` +
	`{"key":"http.response.status_code","value":{"intValue":"200"}},` +
	`{"key":"whirlpool.hedge","value":{"boolValue":true}}],"status":{}}]}]}]}`

// The spans of a request are exported in the JSON of OTLP. Close exports the spans that still wait.
func TestExport(t *testing.T) {
	c := newCollector(t)
	e := New("1.2", slog.New(slog.DiscardHandler))
	e.Write(record()) // nothing is configured
	e.Configure(Settings{Endpoint: c.URL, Ratio: 0.5})
	ratio, on := e.Ratio()
	require.True(t, on)
	require.Equal(t, 0.5, ratio)
	e.Write(record())
	unsampled := record()
	unsampled.Trace.Sampled = false
	e.Write(unsampled)
	e.Close()
	require.Len(t, c.bodies, 1)
	want := spans
	for name, id := range map[string]uint64{"REQUEST": trace.RequestSpan(0xab), "FIRST": trace.AttemptSpan(0xab, 0),
		"SECOND": trace.AttemptSpan(0xab, 1)} {
		want = string(bytes.ReplaceAll([]byte(want), []byte(name), []byte(spanID(id))))
	}
	require.Equal(t, want, c.bodies[0])
}

// The span of a request that failed has an error. A span whose trace begins in Whirlpool has no parent.
func TestFailures(t *testing.T) {
	r := record()
	r.Final, r.Status, r.Trace.Parent, r.Target = core.FinalExhausted, 0, 0, ""
	s := spansOf(r)[0]
	require.Equal(t, status{codeError, "exhausted"}, s.Status)
	require.Empty(t, s.ParentID)
	text, err := json.Marshal(s)
	require.NoError(t, err)
	require.NotContains(t, string(text), "server.address")
	require.NotContains(t, string(text), "parentSpanId")
}

// Spans are lost if the collector refuses them, or if too many wait. A log record reports the loss.
func TestLostSpans(t *testing.T) {
	c := newCollector(t)
	c.status = 503
	var log bytes.Buffer
	e := New("1", slog.New(slog.NewTextHandler(&log, nil)))
	e.Configure(Settings{Endpoint: c.URL})
	e.mu.Lock()
	e.pending = make([]span, maxPending-2)
	e.mu.Unlock()
	e.Write(record())
	e.mu.Lock()
	require.Equal(t, 3, e.droppedCount)
	e.pending = e.pending[:5]
	e.mu.Unlock()
	e.Close()
	require.Contains(t, log.String(), "the collector responds with status 503")
	require.Contains(t, log.String(), "spans=8")
}

func TestCheckEndpoint(t *testing.T) {
	require.NoError(t, CheckEndpoint("https://h/v1/traces"))
	for _, bad := range []string{"h:1", "ftp://h", "http://", "http://u:secret@h"} {
		err := CheckEndpoint(bad)
		require.Error(t, err)
		require.NotContains(t, err.Error(), "secret")
	}
}
