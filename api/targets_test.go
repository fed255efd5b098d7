package api

import (
	"testing"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/evidence"
)

func TestTargets(t *testing.T) {
	r := newRig(t, nil)
	r.now = noon.Add(time.Minute)
	r.check(t, get("/targets", 200, `{"targets":[],"total":0,"next_cursor":null}`))
	r.targets.list = []evidence.TargetView{
		{Name: "b.test:80", Attempts: 4, Failures: 1, FailureRate: 0.25, Proxies: 1, LastFailure: time.Second,
			LastSuccess: 2 * time.Second},
		{Name: "a.test:80", Attempts: 4, Failures: 1, FailureRate: 0.25, Proxies: 1, LastFailure: time.Second},
		{Name: "c.test:80", Attempts: 4, Failures: 3, FailureRate: 0.75, Proxies: 2, LastFailure: time.Second},
		{Name: "d.test:80", Attempts: 2, Failures: 2, FailureRate: 1, Proxies: 2, Suspect: true,
			LastFailure: time.Second},
	}
	const (
		d = `{"target":"d.test:80","attempts":2,"failures":2,"failure_rate":1,"proxies_failing":2,` +
			`"suspect":true,"last_failure":"2026-11-28T12:00:01Z","last_success":null}`
		c = `{"target":"c.test:80","attempts":4,"failures":3,"failure_rate":0.75,"proxies_failing":2,` +
			`"suspect":false,"last_failure":"2026-11-28T12:00:01Z","last_success":null}`
		a = `{"target":"a.test:80","attempts":4,"failures":1,"failure_rate":0.25,"proxies_failing":1,` +
			`"suspect":false,"last_failure":"2026-11-28T12:00:01Z","last_success":null}`
		b = `{"target":"b.test:80","attempts":4,"failures":1,"failure_rate":0.25,"proxies_failing":1,` +
			`"suspect":false,"last_failure":"2026-11-28T12:00:01Z","last_success":"2026-11-28T12:00:02Z"}`
	)
	limit := `{"error":"invalid_field","message":"limit must be one integer from 1 to 1000",` +
		`"details":{"field":"limit","limit":"1 to 1000"}}`
	r.check(t,
		get("/targets", 200, `{"targets":[`+d+","+c+","+a+","+b+`],"total":4,"next_cursor":null}`),
		get("/targets?limit=3", 200, `{"targets":[`+d+","+c+","+a+`],"total":4,"next_cursor":"3"}`),
		get("/targets?limit=3&cursor=3", 200, `{"targets":[`+b+`],"total":4,"next_cursor":null}`),
		get("/targets?limit=1&cursor=1", 200, `{"targets":[`+c+`],"total":4,"next_cursor":"2"}`),
		get("/targets?cursor=4", 200, `{"targets":[],"total":4,"next_cursor":null}`),
		get("/targets?cursor=999999999&limit=1000", 200),
		get("/targets?limit=0", 400, limit),
		get("/targets?limit=1001", 400, limit),
		get("/targets?limit=1&limit=2", 400, limit),
		get("/targets?cursor=-1", 400),
		get("/targets?cursor=1073741825", 400),
		get("/targets?cursor=x", 400),
	)
}
