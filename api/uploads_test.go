package api

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins"
)

// A module that fails checks is refused. The response names these checks.
func TestRejectedUpload(t *testing.T) {
	r := newRig(t, nil)
	r.plugins.err = &plugins.Rejection{Failed: []plugins.FailedCheck{{Name: "score_counts", Detail: "one score",
		Fix: "write all"}}}
	r.check(t, apiCase{method: "POST", path: "/plugins?name=a", body: "code", header: wasm, status: 422,
		want: `{"error":"invalid_plugin","message":"check score_counts failed: one score; write all",` +
			`"details":{"checks":[{"name":"score_counts","detail":"one score","fix":"write all"}]}}`})
	r.plugins.refuse = plugins.ErrTooManyUploads
	r.check(t, apiCase{method: "POST", path: "/plugins?name=a", body: "code", header: wasm, status: 429})
}

// If an upload takes long, or its client does not want to wait, the response is a 202 with the state of the
// upload.
func TestAcceptedUpload(t *testing.T) {
	begun := `{"id":"7","name":"a","sha256":"sum","state":"checking","started_at":"2026-11-28T12:00:00Z"}`
	ended := `"started_at":"2026-11-28T12:00:00Z","finished_at":"2026-11-28T12:00:00Z",`
	for _, x := range []struct {
		err  error
		want string
	}{
		{nil, `{"id":"7","name":"a","sha256":"sum","state":"done",` + ended + `"plugin":` + pluginJSON("a", "", "",
			"", "", "") + `}`},
		{fmt.Errorf("name %w", core.ErrConflict), `{"id":"7","name":"a","sha256":"sum","state":"failed",` + ended +
			`"error":{"error":"conflict","message":"name already exists"}}`},
		{fmt.Errorf("name %w", core.ErrNotFound), `{"id":"7","name":"a","sha256":"sum","state":"failed",` + ended +
			`"error":{"error":"not_found","message":"name not found"}}`},
		{errors.New("secret"), `{"id":"7","name":"a","sha256":"sum","state":"failed",` + ended +
			`"error":{"error":"internal","message":"internal error; the log has the details"}}`},
	} {
		r := newRig(t, nil)
		r.plugins.slow, r.plugins.err = true, x.err
		response, body := r.send(t, "POST", "/api/v1/plugins?name=a", "code", wasm+"\r\nPrefer: respond-async")
		require.Equal(t, 202, response.StatusCode)
		require.JSONEq(t, begun, string(body))
		require.Equal(t, "/api/v1/uploads/7", response.Header.Get("Location"))
		require.Contains(t, r.log.String(), "sha256=sum")
		r.check(t, get("/uploads/7", 200, begun), get("/uploads/8", 404))
		r.plugins.end()
		r.check(t, get("/uploads/7", 200, x.want))
	}
}

func TestPreferredWait(t *testing.T) {
	for prefer, want := range map[string]time.Duration{
		"": maxWait, "respond-async": 0, "wait=5": 5 * time.Second, `wait = "5"`: 5 * time.Second,
		"Respond-Async, wait=2": 2 * time.Second,
		"wait=2, respond-async": 2 * time.Second, "wait=1000": maxWait, "wait=x": maxWait,
		"wait=-1": maxWait, "handling=lenient": maxWait,
	} {
		require.Equal(t, want, preferredWait(prefer), prefer)
	}
}
