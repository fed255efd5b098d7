package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAuditCommand(t *testing.T) {
	f := newFakeAPI(t, map[string][]string{"GET /audit": {`200 {"changes":[` +
		`{"at":"2026-11-28T12:00:00Z","node":"gw-1","key":"alice","method":"POST","path":"/api/v1/proxies",` +
		`"query":"persist=false","changed":["proxy/p7","proxy/p8"],"changed_total":9},` +
		`{"at":"2026-11-28T11:00:00Z","node":"","key":"","method":"DELETE","path":"/api/v1/retry/policy",` +
		`"query":"","changed":[],"changed_total":0}],"total":2,"next_cursor":null}`}})
	out, errs, code := run("audit", "--find", "p7", "--limit", "3")
	require.Zero(t, code, errs)
	require.Equal(t, "limit=3&q=p7", f.queries["GET /audit"])
	require.Regexp(t, `^TIME +NODE +KEY +CHANGE
\S+ \S+ +gw-1 +alice +POST /proxies\?persist=false proxy/p7, proxy/p8 and 7 more
\S+ \S+ +- +- +DELETE /retry/policy
$`, out)
	out, _, code = run("audit", "--json")
	require.Zero(t, code)
	require.Contains(t, out, `"changed_total": 9`)
	_, errs, code = run("audit", "--limit", "0")
	require.Equal(t, 2, code)
	require.Contains(t, errs, "--limit must be 1 to 1000")
}
