package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/minutes"
	"github.com/whirlpool-proxy/whirlpool/sdk/client"
)

// clientOf returns a client of sdk/client whose requests the rig serves. Each response is also stored in *raw.
func (r *rig) clientOf(t *testing.T, raw *string) *client.Client {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		response, answer := r.send(t, q.Method, q.URL.String(), string(body), "Content-Type: "+
			q.Header.Get("Content-Type"))
		*raw = string(answer)
		w.WriteHeader(response.StatusCode)
		w.Write(answer)
	}))
	t.Cleanup(server.Close)
	c, err := client.New(server.URL, "")
	require.NoError(t, err)
	return c
}

// The types of sdk/client have every field that the API sends.
func TestClient(t *testing.T) {
	r := newRig(t, nil)
	r.trip("F1")
	r.metrics.reasons.CountAttempt(&core.AttemptEvent{ProxyID: "F1", Host: "a.test", Ended: r.now,
		Outcome: core.Outcome{Status: 403, Latency: time.Second}}, &minutes.SeriesRef{})
	r.tracker.list = []metrics.Request{{ID: 0x20, Method: "GET", Host: "a.test", Priority: core.PriorityHigh,
		State:    "done",
		Attempts: attempts}}
	r.targets.list = []evidence.TargetView{{Name: "a.test:80", Failures: 1, LastSuccess: time.Second}}
	ctx, raw := context.Background(), ""
	c := r.clientOf(t, &raw)
	page := client.List{Limit: 1}
	calls := map[string]func() (any, error){
		"Proxies":      func() (any, error) { return c.Proxies(ctx, page) },
		"Proxy":        func() (any, error) { return c.Proxy(ctx, "F1") },
		"Breakers":     func() (any, error) { return c.Breakers(ctx, page) },
		"Breaker":      func() (any, error) { return c.Breaker(ctx, "F1") },
		"Targets":      func() (any, error) { return c.Targets(ctx, page) },
		"Requests":     func() (any, error) { return c.Requests(ctx, page) },
		"Request":      func() (any, error) { return c.Request(ctx, "0000000000000020") },
		"Status":       func() (any, error) { return c.Status(ctx) },
		"Policy":       func() (any, error) { return c.Policy(ctx) },
		"ChangePolicy": func() (any, error) { return c.ChangePolicy(ctx, map[string]any{"max_attempts": 4}) },
		"BanProxy":     func() (any, error) { return c.BanProxy(ctx, "F2", "a.test", time.Hour) },
		"ResetBreaker": func() (any, error) { return c.ResetBreaker(ctx, "F1") },
		"ChangeProxy": func() (any, error) {
			weight := 2.0
			return c.ChangeProxy(ctx, "F2", client.ProxyChange{Weight: &weight})
		},
	}
	r.engine.result = responseOf("hi")
	r.engine.result.Response.Trailer = http.Header{"X-T": {"u"}}
	in := client.RequestInput{URL: "http://a.test/", Method: "PUT", Body: []byte("\xff"), Retry: map[string]any{
		"max_attempts": 2}}
	submitted, err := c.SubmitRequest(ctx, in)
	require.NoError(t, err)
	requireSameFields(t, raw, submitted, "SubmitRequest")
	require.Equal(t, "PUT", r.engine.calls[0].Request.Method)
	out, err := c.Response(ctx, submitted.ID)
	require.NoError(t, err)
	requireSameFields(t, raw, out, "Response")
	require.Equal(t, "hi", out.Body)
	require.NoError(t, c.CancelRequest(ctx, submitted.ID))
	r.engine.result = responseOf("\xff")
	out, err = c.SendRequest(ctx, in)
	require.NoError(t, err)
	require.Equal(t, "\xff", string(out.BodyBase64))
	for name, call := range calls {
		v, err := call()
		require.NoError(t, err, name)
		requireSameFields(t, raw, v, name)
	}
	points, err := c.History(ctx, time.Hour, 0, "")
	require.NoError(t, err)
	require.Len(t, points, 1)
	require.EqualValues(t, 1, points[0].Causes["answered"])
	url := "http://192.0.2.7:80"
	p, err := c.AddProxy(ctx, client.ProxyChange{URL: &url})
	require.NoError(t, err)
	require.Equal(t, "192.0.2.7:80", p.ID)
	list, err := c.AddProxies(ctx, "192.0.2.8:80\n192.0.2.9:80\n")
	require.NoError(t, err)
	require.Len(t, list, 2)
	policy, err := c.ResetPolicy(ctx)
	require.NoError(t, err)
	require.Equal(t, "file", policy.Source)
	require.NoError(t, c.RemoveProxy(ctx, p.ID, true))
	require.NoError(t, c.EndBan(ctx, "F2", "a.test"))

	var failed *client.Error
	_, err = c.Proxy(ctx, "no such/proxy")
	require.ErrorAs(t, err, &failed)
	require.Equal(t, 404, failed.Status)
	require.Equal(t, "not_found", failed.Code)
	require.ErrorContains(t, err, "no such/proxy")
}

func TestEventsOfTheClient(t *testing.T) {
	r := newRig(t, nil)
	r.activate("a")
	first := r.cfg.Events.eventID(r.cfg.Events.stream.LastID())
	r.activate("b")
	stream := "retry: 2000\n\n"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		require.Equal(t, "activation", q.URL.Query().Get("type"))
		require.Equal(t, first, q.Header.Get("Last-Event-ID"))
		io.WriteString(w, stream+"id: x-2\nevent: activation\ndata: {\"for\":\"first\"}\n\n: heartbeat\n\n")
	}))
	defer server.Close()
	c, err := client.New(server.URL+"/api/v1/", "")
	require.NoError(t, err)
	var got []client.Event
	query := client.EventQuery{Types: []string{"activation"}, LastID: first}
	err = c.Events(context.Background(), query, func(e client.Event) error {
		got = append(got, e)
		return nil
	})
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, []client.Event{{ID: "x-2", Type: "activation", Data: []byte(`{"for":"first"}`)}}, got)
	stop := errors.New("stop")
	require.ErrorIs(t, c.Events(context.Background(), query,
		func(client.Event) error { return stop }), stop)
}

func TestAddressesOfTheClient(t *testing.T) {
	for address, want := range map[string]string{
		"http://h:1": "http://h:1/api/v1", "https://h/x/": "https://h/x/api/v1", "http://h/api/v1/": "http://h/api/v1",
		"h:1": "", "http://user@h": "", "http://h?x": "", "ftp://h": "",
	} {
		c, err := client.New(address, "")
		if want == "" {
			require.Error(t, err, address)
			continue
		}
		require.NoError(t, err, address)
		require.Equal(t, want, strings.TrimSuffix(c.Base.String(), "/"))
	}
}

// requireSameFields fails if the type of v lacks a field of a JSON document.
func requireSameFields(t *testing.T, document string, v any, name string) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(document))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(reflect.New(reflect.TypeOf(v).Elem()).Interface()), "%s: %s", name, document)
}
