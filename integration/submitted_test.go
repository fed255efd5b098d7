package integration

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// submit sends a request with POST /requests and returns its path.
func (w *whirl) submit(body string) (path string) {
	w.t.Helper()
	status, answer, fields := w.call("POST", "/requests", body)
	require.Equal(w.t, 202, status, "%s", answer)
	var v struct{ ID string }
	require.NoError(w.t, json.Unmarshal(answer, &v))
	require.Equal(w.t, "/api/v1/requests/"+v.ID+"/response", fields.Get("Location"))
	return "/requests/" + v.ID
}

// awaitRequest waits until the request with the given path is in a state.
func (w *whirl) awaitRequest(path, state string) {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return w.getJSON(path)["state"] == state }, time.Minute, 20*time.Millisecond)
}

// A program submits a request, does something else, and reads the response later. Meanwhile it can see the attempts.
func TestS229ASubmittedRequest(t *testing.T) {
	w := start(t, 2, confK)
	w.setAll(lab.Status(503))
	path := w.submit(`{"url":"http://origin.test/","retry":{"max_attempts":5,"base_delay":5,"jitter":false}}`)
	w.awaitRequest(path, "waiting")
	require.NotEmpty(t, w.getJSON(path)["attempts"])
	status, _, _ := w.call("GET", path+"/response", "", "Prefer", "respond-async")
	require.Equal(t, 202, status)
	w.setAll(lab.OK())
	v := w.getJSON(path + "/response") // waits for the end
	require.Equal(t, "success", v["outcome"])
	require.Greater(t, len(v["attempts"].([]any)), 1)
	require.Equal(t, v, w.getJSON(path+"/response"), "the response can be read again")
	w.reconcile(0)
}

func TestS229ACancelledRequestMakesNoFurtherAttempt(t *testing.T) {
	w := start(t, 2, confK)
	w.setAll(lab.Status(503))
	path := w.submit(`{"url":"http://origin.test/","retry":{"max_attempts":3,"base_delay":30,"max_backoff_delay":30}}`)
	w.awaitRequest(path, "waiting")
	status, _, _ := w.call("DELETE", path, "")
	require.Equal(t, 204, status)
	w.awaitRequest(path, "done")
	v := w.getJSON(path)
	require.Equal(t, "cancelled", v["outcome"])
	require.Len(t, v["attempts"], 1)
	status, _, _ = w.call("GET", path+"/response", "")
	require.Equal(t, 404, status)
	w.reconcile(0)
}
