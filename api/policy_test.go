package api

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/retry"
)

func TestPolicy(t *testing.T) {
	r := newRig(t, nil)
	const rest = `"backoff_strategy":"exponential","base_delay":1,"multiplier":2,"max_backoff_delay":30,` +
		`"jitter":false,`
	r.check(t, get("/retry/policy", 200, `{"max_attempts":3,`+rest+
		`"retry_status_codes":[502,503,504],"timeout":null,"retry_non_idempotent":false,"failover_delay":null,`+
		`"updated_at":"2026-11-28T12:00:00Z","source":"file"}`))
	r.now = noon.Add(time.Second)
	const changed = `{"max_attempts":5,` + rest +
		`"retry_status_codes":[503],"timeout":2.5,"retry_non_idempotent":true,"failover_delay":0,` +
		`"updated_at":"2026-11-28T12:00:01Z","source":"runtime"}`
	r.check(t,
		call("PUT", "/retry/policy",
			`{"max_attempts":5,"retry_status_codes":[503],"timeout":2.5,"retry_non_idempotent":true,`+
				`"failover_delay":0}`, 200, changed),
		apiCase{name: "no change", method: "PUT", path: "/retry/policy", body: `{}`, status: 200, want: changed},
		get("/retry/policy", 200, changed),
	)
	before := r.policies.View()
	r.check(t,
		call("PUT", "/retry/policy", `{"jitter":true,"max_attempts":0}`, 400,
			`{"error":"invalid_field","message":"max_attempts must be 1 to 10, not 0",`+
				`"details":{"field":"max_attempts","limit":"1 to 10"}}`),
		call("PUT", "/retry/policy", `{"backoff_strategy":"random"}`, 400),
		call("PUT", "/retry/policy", `{"retry_status_codes":[399]}`, 400),
		call("PUT", "/retry/policy", `{"timeout":"1"}`, 400),
		call("PUT", "/retry/policy", `{"updated_at":"2026-11-28T12:00:01Z"}`, 400),
	)
	require.Equal(t, before, r.policies.View())
	r.check(t, apiCase{name: "null clears", method: "PUT", path: "/retry/policy",
		body: `{"timeout":null,"failover_delay":null}`, status: 200})
	require.Nil(t, r.policies.Current().Timeout)
	require.Nil(t, r.policies.Current().FailoverDelay)
	require.Equal(t, retry.SourceRuntime, r.policies.View().Source)
}

// The JSON of a policy has the fields of hedges if hedges are on, or if hedge_budget is not the default.
func TestPolicyWithHedges(t *testing.T) {
	r := newRig(t, nil)
	put := func(body, part string) {
		t.Helper()
		response, got := r.send(t, "PUT", "/api/v1/retry/policy", body)
		require.Equal(t, 200, response.StatusCode, string(got))
		if part == "" {
			require.NotContains(t, string(got), "hedge")
			return
		}
		require.Contains(t, string(got), part)
	}
	put(`{"hedge":"p95"}`, `"hedge":"p95","hedge_budget":0.05,"updated_at"`)
	put(`{"hedge":0.25}`, `"hedge":0.25,"hedge_budget":0.05,`)
	put(`{"hedge":"off"}`, "")
	put(`{"hedge_budget":0.1}`, `"hedge":"off","hedge_budget":0.1,`)
	r.check(t,
		call("PUT", "/retry/policy", `{"hedge":"p99"}`, 400, `{"error":"invalid_field",`+
			`"message":"hedge: must be \"off\", \"p95\" or 0.001 to 60 seconds","details":{"field":"hedge"}}`),
		call("PUT", "/retry/policy", `{"hedge":61}`, 400, `{"error":"invalid_field",`+
			`"message":"hedge must be \"off\", \"p95\" or 0.001 to 60 seconds, not 61",`+
			`"details":{"field":"hedge","limit":"0.001 to 60"}}`),
		call("PUT", "/retry/policy", `{"hedge":null}`, 400),
		call("PUT", "/retry/policy", `{"hedge_budget":1.5}`, 400),
	)
}
