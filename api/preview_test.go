package api

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// previewed has the fields of a preview that the tests read.
type previewed struct {
	Summary   string
	Examined  int
	Since     *time.Time
	Recorded  courseView
	Under     courseView `json:"under_policy"`
	Fewer     int        `json:"fewer_attempts"`
	More      int        `json:"more_attempts"`
	Statuses  []statusChange
	Retries   retryShare
	Untold    []string
	Requested int `json:"requests"`
}

func (r *rig) preview(t *testing.T, body string) (p previewed) {
	t.Helper()
	response, raw := r.send(t, "POST", "/api/v1/retry/policy/preview", body)
	require.Equal(t, 200, response.StatusCode, string(raw))
	require.NoError(t, json.Unmarshal(raw, &p))
	return p
}

func TestPolicyPreview(t *testing.T) {
	r := newRig(t, nil)
	const nothing = "no request has ended in the last hour, so there is nothing to compare"
	require.Equal(t, nothing, r.preview(t, `{"max_attempts":1}`).Summary)

	attempt := func(number int, cause core.Cause, status int, again core.RetryKind) core.AttemptEvent {
		return core.AttemptEvent{ProxyID: "F1", Attempt: number, Started: noon, Ended: noon.Add(time.Second),
			Outcome: core.Outcome{Cause: cause, Status: status, Retry: again, Relay: true}}
	}
	failed := attempt(0, verdict.RetryStatus, 503, core.RetryAfterBackoff)
	request := func(status int, attempts ...core.AttemptEvent) metrics.Request {
		return metrics.Request{Method: "GET", State: metrics.StateDone, Started: noon, Ended: noon.Add(time.Second),
			Final: core.FinalSuccess, Status: status, Attempts: attempts}
	}
	r.tracker.list = []metrics.Request{
		request(200, attempt(0, verdict.Answered, 200, core.NoRetry)),
		request(200, failed, attempt(1, verdict.Answered, 200, core.NoRetry)),
		request(429, attempt(0, verdict.Answered, 429, core.NoRetry)),
	}
	for range 7 {
		r.try("F1", verdict.Answered, 429)
	}
	r.now = noon.Add(time.Minute)
	before := r.policies.View()

	p := r.preview(t, `{"max_attempts":1}`)
	require.Equal(t, "of the latest 3 requests, 1 would have had fewer attempts, 2 would have had as many attempts as "+
		"they had; 1 would have been served (2 were)", p.Summary)
	require.Equal(t, courseView{Attempts: 4, Served: 2, Refused: 1}, p.Recorded)
	require.Equal(t, courseView{Attempts: 3, Served: 1, Refused: 2}, p.Under)
	require.Equal(t, noon, *p.Since)
	require.Equal(t, []string{
		"requests with a policy of their own, by a header or a rule, are examined as if they had none",
	}, p.Untold)

	p = r.preview(t, `{"retry_status_codes":[429,503],"jitter":true,"hedge":"p95"}`)
	require.Equal(t, "of the latest 3 requests, 1 would have had more attempts, 2 would have had as many attempts as "+
		"they had; 2 would have been served (2 were), and 1 more if their next attempt had been", p.Summary)
	require.Equal(t, []statusChange{{429, 7, true}}, p.Statuses)
	require.Equal(t, retryShare{1, 1}, p.Retries)
	require.Equal(t, "the result of an attempt that was not made is not known; 1 of the 1 retries among these "+
		"requests were served", p.Untold[0])
	require.Len(t, p.Untold, 4)

	r.metrics.window.Requests = 5000
	require.Contains(t, r.preview(t, `{}`).Untold[0], "the latest 3 of 5000 requests of the hour are kept")
	r.now = noon.Add(2 * time.Hour) // the requests are older than an hour
	require.Equal(t, nothing, r.preview(t, `{}`).Summary)
	require.Equal(t, before, r.policies.View(), "a preview changes nothing")
	require.NotContains(t, r.log.String(), "changed through the API")

	r.check(t,
		call("POST", "/retry/policy/preview", `{"max_attempts":0}`, 400,
			`{"error":"invalid_field","message":"max_attempts must be 1 to 10, not 0",`+
				`"details":{"field":"max_attempts","limit":"1 to 10"}}`),
		call("POST", "/retry/policy/preview", `{"persist":true}`, 400),
	)
}
