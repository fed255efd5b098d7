package integration

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// A request with a traceparent field is a span in that trace, with a child for each attempt. The target gets the
// request's span as the parent.
func TestTraces(t *testing.T) {
	bodies := make(chan string, 100)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		bodies <- string(body)
	}))
	defer collector.Close()
	w := start(t, 2, confK+"\n[traces]\nendpoint = \""+collector.URL+"\"\n")
	w.fakes[0].SetBehaviour(lab.Status(503))
	w.fakes[1].SetBehaviour(lab.Status(503))
	const trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	q, err := http.NewRequest("GET", "http://target.test/", nil)
	require.NoError(t, err)
	q.Header.Set("Traceparent", "00-"+trace+"-"+parent+"-01")
	response, err := w.client.Do(q)
	require.NoError(t, err)
	response.Body.Close()
	var export struct {
		ResourceSpans []struct {
			ScopeSpans []struct {
				Spans []struct{ TraceID, SpanID, ParentSpanID, Name string }
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(<-bodies), &export))
	spans := export.ResourceSpans[0].ScopeSpans[0].Spans
	require.GreaterOrEqual(t, len(spans), 3, "the request and at least two attempts")
	require.Equal(t, []string{trace, parent, "GET"}, []string{spans[0].TraceID, spans[0].ParentSpanID, spans[0].Name})
	for _, s := range spans[1:] {
		require.Equal(t, []string{trace, spans[0].SpanID, "attempt"}, []string{s.TraceID, s.ParentSpanID, s.Name})
	}
	received := ""
	for _, fake := range w.fakes {
		for _, request := range fake.Arrivals() {
			received += strings.ToLower(request.Header.Get("Traceparent")) + "\n"
		}
	}
	require.Contains(t, received, "00-"+trace+"-"+spans[0].SpanID+"-01\n")
	require.NotContains(t, received, parent)
}

// POST /request has spans as a request of a client has.
func TestTracesOfCalls(t *testing.T) {
	bodies := make(chan string, 100)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		bodies <- string(body)
	}))
	defer collector.Close()
	w := start(t, 1, confK+"\n[traces]\nendpoint = \""+collector.URL+"\"\n")
	const trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	status, body, _ := w.call("POST", "/request",
		`{"url":"http://target.test/","headers":{"traceparent":"00-`+trace+`-`+parent+`-01"}}`)
	require.Equal(t, 200, status, "%s", body)
	spans := <-bodies
	require.Contains(t, spans, `"traceId":"`+trace+`"`)
	require.Contains(t, spans, `"parentSpanId":"`+parent+`","name":"GET"`)
	require.Contains(t, spans, `{"key":"whirlpool.listener","value":{"stringValue":"api"}}`)
	require.Contains(t, spans, `{"key":"http.response.status_code","value":{"intValue":"200"}}`)
	require.Contains(t, spans, `"name":"attempt"`)
	received := w.fakes[0].Arrivals()[0].Header.Get("Traceparent")
	require.Contains(t, received, trace)
	require.NotContains(t, received, parent)
}
