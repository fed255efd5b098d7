package integration

import (
	"bufio"
	"encoding/json"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	wasm "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// event is one server-sent event.
type event struct {
	id, kind string
	data     map[string]any
}

// events returns a function that waits for the next event of GET /events. lastID is the id of the last event
// that the client has received.
func (w *whirl) events(query, lastID string) (next func() event, leave func()) {
	q, err := http.NewRequest("GET", "http://"+w.api+"/api/v1/events"+query, nil)
	require.NoError(w.t, err)
	if lastID != "" {
		q.Header.Set("Last-Event-ID", lastID)
	}
	r, err := (&http.Client{Transport: &http.Transport{}}).Do(q)
	require.NoError(w.t, err)
	require.Equal(w.t, 200, r.StatusCode)
	w.t.Cleanup(func() { r.Body.Close() })
	lines := bufio.NewScanner(r.Body)
	return func() (e event) {
		w.t.Helper()
		for lines.Scan() {
			field, value, _ := strings.Cut(lines.Text(), ": ")
			switch field {
			case "id":
				e.id = value
			case "event":
				e.kind = value
			case "data":
				require.NoError(w.t, json.Unmarshal([]byte(value), &e.data))
			case "":
				if e.kind != "" {
					return e
				}
			}
		}
		require.NoError(w.t, lines.Err())
		return event{kind: "end"}
	}, func() { r.Body.Close() }
}

// The binary reports its events at once. A client that comes back gets the events since its last one. The
// stream ends when the gateway stops.
func TestTheEventStream(t *testing.T) {
	w := start(t, 2, strings.Replace(confOpen, "failure_threshold = 5", "failure_threshold = 1", 1))
	next, leave := w.events("", "")
	breakers, _ := w.events("?type=breaker", "")

	w.fakes[0].SetBehaviour(lab.Status(503))
	w.requestUntilArrivals(w.fakes[0], 1)
	e := next()
	require.Equal(t, "breaker", e.kind)
	require.Equal(t, "F1", e.data["proxy_id"])
	require.Equal(t, "threshold", e.data["reason"])
	require.Equal(t, e, breakers())
	require.Equal(t, "exhaustion", next().kind, "of the request whose failure opened the breaker")

	w.putPolicy(`{"max_attempts":2}`)
	e = next()
	require.Equal(t, "policy", e.kind)
	require.Equal(t, 2.0, e.data["max_attempts"])
	status, body, _ := w.call("POST", "/plugins/random/activate", `{"for":"first"}`)
	require.Equal(t, 200, status, "%s", body)
	require.Equal(t, "random", next().data["plugin"])
	status, body, _ = w.call("POST", "/config/reload", "")
	require.Equal(t, 200, status, "%s", body)
	last := next()
	require.Equal(t, "reload", last.kind)
	require.Equal(t, true, last.data["ok"])

	leave()
	status, body, _ = w.call("POST", "/circuit-breakers/F1/reset", "")
	require.Equal(t, 200, status, "%s", body)
	next, _ = w.events("", last.id)
	e = next()
	require.Equal(t, "manual_reset", e.data["reason"], "it came while the client was away")
	require.Equal(t, e, breakers())

	seconds := 1
	eventually(t, "curl shows the event", func() bool {
		out, err := exec.Command("curl", "-sSN", "--max-time", strconv.Itoa(seconds), "-H", "Last-Event-ID: "+last.id,
			"http://"+w.api+"/api/v1/events?type=breaker").Output()
		require.Error(t, err, "curl reads until its time is over")
		seconds *= 2
		return strings.Contains(string(out),
			"retry: 2000\n\nid: "+e.id+"\nevent: breaker\ndata: {\"proxy_id\":\"F1\",")
	})

	w.cmd.Process.Signal(syscall.SIGTERM)
	require.Equal(t, "end", next().kind)
	require.NoError(t, w.cmd.Wait(), "the streams do not hold up the stop")
}

// loggingModule is a scorer that logs "hello" and declares a setting.
func loggingModule() []byte {
	m := wasm.Scorer(wasm.Join(
		wasm.Const32(1), wasm.Const32(40_000), wasm.Const32(5), wasm.CallTo(0), wasm.Scores(1))...)
	m.Imports = []wasm.Import{{Module: "whirlpool", Name: "log", Params: wasm.Repeat(3, wasm.I32)}}
	m.Data = []wasm.Data{
		{Offset: 40_000, Bytes: []byte("hello")},
		{Offset: 41_000, Bytes: []byte("margin\tnumber\t0..1\t0.1\thow near\n\x00")},
	}
	return m.Add(
		wasm.Func{Export: "describe", Results: []byte{wasm.I32}, Code: wasm.Const32(41_000)},
		wasm.Func{Export: "configure", Params: []byte{wasm.I32, wasm.I32}, Results: []byte{wasm.I32},
			Code: wasm.Const32(0)},
	).Bytes()
}

// A log line of a plugin is an event.
func TestEventsOfAPlugin(t *testing.T) {
	w := start(t, 2, confK)
	next, _ := w.events("?type=plugin_log", "")
	status, body, _ := w.call("POST", "/plugins?name=talker", string(loggingModule()), "Content-Type",
		"application/wasm")
	require.Equal(t, 201, status, "%s", body)
	e := next()
	require.Equal(t, "plugin_log", e.kind)
	require.Equal(t, []any{"talker", 1.0, "info", "hello"},
		[]any{e.data["plugin"], e.data["number"], e.data["level"], e.data["text"]})
}
