package api

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ban"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/minutes"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// listed is a page of any list.
type listed struct {
	Proxies  []struct{ ID string }
	Breakers []struct {
		ID string `json:"proxy_id"`
	} `json:"circuit_breakers"`
	Targets  []struct{ Target string }
	Requests []struct{ ID string }
	Events   []struct {
		ID string `json:"proxy_id"`
	}
	Total int
	Next  *string `json:"next_cursor"`
}

// ids returns the elements of a page, with spaces between them.
func (l *listed) ids() string {
	var all []string
	for _, e := range l.Proxies {
		all = append(all, e.ID)
	}
	for _, e := range l.Breakers {
		all = append(all, e.ID)
	}
	for _, e := range l.Targets {
		all = append(all, e.Target)
	}
	for _, e := range l.Requests {
		all = append(all, strings.TrimLeft(e.ID, "0"))
	}
	for _, e := range l.Events {
		all = append(all, e.ID)
	}
	return strings.Join(all, " ")
}

func (r *rig) page(t *testing.T, path string) *listed {
	t.Helper()
	response, body := r.send(t, "GET", "/api/v1"+path, "")
	require.Equal(t, 200, response.StatusCode, "%s: %s", path, body)
	l := &listed{}
	require.NoError(t, json.Unmarshal(body, l))
	return l
}

// setPool replaces the proxies of the rig.
func (r *rig) setPool(t testing.TB, n int, change func(i int, s *upstream.Spec)) {
	specs := make([]upstream.Spec, n)
	for i := range specs {
		specs[i] = proxySpec(t, fmt.Sprintf("p%d", i), fmt.Sprintf("http://user:secret@10.%d.%d.1:8080", i/256, i%256))
		if change != nil {
			change(i, &specs[i])
		}
	}
	require.NoError(t, r.pool.Apply(specs))
}

func TestListsOfProxies(t *testing.T) {
	r := newRig(t, nil)
	r.setPool(t, 6, func(i int, s *upstream.Spec) {
		s.Region, s.Weight = []string{"EU", "US"}[i%2], float64(10-i)
		if i == 3 {
			s.ChangeExtras(func(e *upstream.Extras) { e.Metadata = map[string]string{"vendor": "Acme"} })
		}
		if i == 5 {
			s.Tags = []string{"residential"}
		}
		if i == 1 || i == 3 {
			s.ChangeExtras(func(e *upstream.Extras) { e.Vendor = "North" })
		}
	})
	r.metrics.recent = map[string]metrics.RecentAttempts{"p3": {Attempts: 2, BadAttempts: 1,
		LastBad: metrics.BadAttempt{
			Key: minutes.KeyOf(verdict.Answered, 403), Host: "a.test", At: noon,
		}}}
	r.trip("p1")
	r.trip("p4")
	r.engine.banned = []ban.Pair{{ProxyID: "p2"}}
	for query, want := range map[string]string{
		"?limit=2":                    "p0 p1",
		"?state=open":                 "p1 p4",
		"?state=failing":              "p1 p3 p4",
		"?state=open,banned":          "p1 p2 p4",
		"?state=closed&region=US":     "p3 p5",
		"?q=ACME":                     "p3",
		"?q=residential":              "p5",
		"?q=vendor%3Dacme":            "p3",
		"?q=10.0.4.":                  "p4",
		"?q=secret":                   "", // the password is not part of the text
		"?sort=weight":                "p5 p4 p3 p2 p1 p0",
		"?sort=-weight&limit=1":       "p0",
		"?sort=-id&limit=2":           "p5 p4",
		"?sort=region":                "p0 p2 p4 p1 p3 p5",
		"?sort=state":                 "p0 p2 p3 p5 p1 p4",
		"?state=closed&region=us":     "p3 p5",
		"?region=XX":                  "",
		"?state=draining":             "",
		"?state=half_open":            "",
		"?sort=-region&limit=1&q=10.": "p1",
		"?vendor=north":               "p1 p3",
		"?q=nort":                     "p1 p3",
		"?vendor=north&state=closed":  "p3",
		"?reason=403%20at%20a.test":   "p3",
		"?reason=unknown":             "p1 p4",
		"?reason=403":                 "",
	} {
		for _, path := range []string{"/proxies", "/circuit-breakers"} {
			require.Equal(t, want, r.page(t, path+query).ids(), path+query)
		}
	}
	require.Equal(t, 2, r.page(t, "/proxies?state=open&limit=1").Total)
	bad := func(field, message string) string {
		return fmt.Sprintf(`{"error":"invalid_field","message":%q,"details":{"field":%q}}`, message, field)
	}
	r.check(t,
		get("/proxies?sort=name", 400, bad("sort", "sort must be one of id, region, state, weight, cost, uses, "+
			"success_rate, avg_latency, in_flight, last_used; a hyphen before it reverses the order, as in -id")),
		get("/proxies?state=opened", 400, bad("state",
			"state must be one of closed, open, half_open, failing, draining, banned, "+
				"unreached, or several of them with commas between them; did you mean open?")),
		get("/proxies?state=", 400), get("/proxies?q=", 400), get("/proxies?region=", 400),
		get("/proxies?cursor=", 400), get("/proxies?cursor=-", 400), get("/proxies?cursor=1-", 400),
		get("/proxies?cursor=1-!", 400), get("/proxies?cursor=1-x", 200), get("/proxies?cursor=%2B1", 400),
		get("/proxies?cursor=9999999999", 400),
		get("/proxies?limit=1001", 400), get("/proxies?q=a&q=b", 400),
		get("/proxies?reason=403+at+"+strings.Repeat("h", 253), 200), // the longest host
		get("/proxies?reason="+strings.Repeat("h", 301), 400),
	)
}

func TestGroups(t *testing.T) {
	r := newRig(t, nil)
	r.setPool(t, 5, func(i int, s *upstream.Spec) {
		s.Region = []string{"EU", "US"}[i%2]
		s.Extras = &upstream.Extras{Vendor: []string{"", "north"}[i/3]}
	})
	r.trip("p1")
	r.trip("p3")
	r.metrics.recent = map[string]metrics.RecentAttempts{"p3": {Attempts: 2, BadAttempts: 2,
		LastBad: metrics.BadAttempt{
			Key: minutes.KeyOf(verdict.ProxyUnreachable, 0), Host: "a.test", At: noon,
		}}}
	r.engine.banned = []ban.Pair{{ProxyID: "p2"}}
	for query, want := range map[string]string{
		"?by=region": "US 2/2 proxy unreachable, EU 0/3 1 banned",
		"?by=vendor": " 1/3 unknown 1 banned, north 1/2 proxy unreachable",
		"?by=reason": "proxy unreachable 1/1 proxy unreachable, unknown 1/1 unknown,  0/3 1 banned",
		"?by=state":  "open 2/2 proxy unreachable, closed 0/3 1 banned",

		"?by=state&vendor=north": "open 1/1 proxy unreachable, closed 0/1",
		"?by=vendor&q=nothing":   "",
	} {
		_, body := r.send(t, "GET", "/api/v1/proxy-groups"+query, "")
		var v struct{ Groups []groupView }
		require.NoError(t, json.Unmarshal(body, &v), string(body))
		var got []string
		for _, g := range v.Groups {
			text := fmt.Sprintf("%s %d/%d", g.Name, g.Failing, g.Proxies)
			if g.Reason != "" {
				text += " " + g.Reason
			}
			if g.Banned > 0 {
				text += fmt.Sprintf(" %d banned", g.Banned)
			}
			got = append(got, text)
		}
		require.Equal(t, want, strings.Join(got, ", "), query)
	}
	r.check(t, get("/proxy-groups", 400), get("/proxy-groups?by=name", 400), get("/proxy-groups?by=state&state=x", 400))
}

// The pages of a list have each proxy once, even if proxies are added and removed between the requests.
func TestPages(t *testing.T) {
	r := newRig(t, nil)
	r.setPool(t, 10, nil)
	for _, order := range []string{"", "&sort=id", "&sort=-id", "&sort=weight"} {
		var all []string
		for cursor := ""; ; {
			l := r.page(t, "/proxies?limit=3"+order+cursor)
			require.Equal(t, 10, l.Total)
			all = append(all, l.ids())
			if l.Next == nil {
				break
			}
			cursor = "&cursor=" + *l.Next
		}
		want := "p0 p1 p2 p3 p4 p5 p6 p7 p8 p9"
		if order == "&sort=-id" {
			want = "p9 p8 p7 p6 p5 p4 p3 p2 p1 p0"
		}
		require.Equal(t, want, strings.Join(all, " "), order)
	}
	first := r.page(t, "/proxies?limit=3")
	require.NoError(t, r.pool.Remove("p0", false))
	second := r.page(t, "/proxies?limit=3&cursor="+*first.Next)
	require.Equal(t, "p3 p4 p5", second.ids())
	require.NoError(t, r.pool.Remove("p5", false)) // the last proxy of the page
	require.Equal(t, "p6 p7 p8", r.page(t, "/proxies?limit=3&cursor="+*second.Next).ids())
	require.Empty(t, r.page(t, "/proxies?limit=3&cursor=999").ids())
}

func TestListsOfTargetsRequestsAndTransitions(t *testing.T) {
	r := newRig(t, nil)
	r.targets.list = []evidence.TargetView{
		{Name: "a.test:80", Failures: 1, Attempts: 9}, {Name: "b.test:80", Failures: 2, Attempts: 3, Suspect: true},
		{Name: "C.test:80", Failures: 3, Attempts: 5},
	}
	r.tracker.list = []metrics.Request{
		{ID: 0x1, Method: "GET", Host: "a.test", Started: noon.Add(time.Second), Status: 200},
		{ID: 0x2, Method: "PUT", Host: "b.test", ProxyID: "F2", Started: noon, Status: 503, ClientID: "Trace-7"},
	}
	r.metrics.transitions = []core.Transition{
		{ProxyID: "F1", To: core.Open, At: noon, Reason: "threshold"},
		{ProxyID: "F2", To: core.Open, At: noon.Add(time.Second), Reason: "evidence", Why: "12 of 12 failed"},
		{ProxyID: "F1", To: core.HalfOpen, At: noon.Add(2 * time.Second), Reason: "timeout"},
	}
	for path, want := range map[string]string{
		"/targets":                        "b.test:80 C.test:80 a.test:80",
		"/targets?state=suspect":          "b.test:80",
		"/targets?q=c.TEST":               "C.test:80",
		"/targets?sort=-attempts&limit=2": "a.test:80 C.test:80",
		"/requests":                       "1 2",
		"/requests?sort=started_at":       "2 1",
		"/requests?q=put+b":               "2",
		"/requests?q=f2":                  "2",
		"/requests?q=trace-7":             "2",
		"/requests?limit=1":               "1",
		"/circuit-breakers/metrics?limit=1&sort=-timestamp":         "F1",
		"/circuit-breakers/metrics?state=open":                      "F1 F2",
		"/circuit-breakers/metrics?proxy_id=F1":                     "F1 F1",
		"/circuit-breakers/metrics?proxy_id=F1&proxy_id=F2&hours=2": "F1 F2 F1",
		"/circuit-breakers/metrics?q=12+of":                         "F2",
	} {
		require.Equal(t, want, r.page(t, path).ids(), path)
	}
	l := r.page(t, "/requests?limit=1")
	require.Equal(t, 2, l.Total)
	require.Equal(t, "2", r.page(t, "/requests?limit=1&cursor="+*l.Next).ids())
	l = r.page(t, "/circuit-breakers/metrics?limit=2")
	require.Equal(t, "F1", r.page(t, "/circuit-breakers/metrics?limit=2&cursor="+*l.Next).ids())
}

// A query parameter that an operation does not have is an error. The error has the name of the parameter and the most
// similar name.
func TestUnknownParameters(t *testing.T) {
	r := newRig(t, nil)
	refused := func(field, message string) string {
		return fmt.Sprintf(`{"error":"invalid_field","message":%q,"details":{"field":%q}}`, message, field)
	}
	r.check(t,
		get("/proxies?stat=open", 400, refused("stat", "there is no query parameter stat; did you mean state?")),
		get("/circuit-breakers?offset=1", 400, refused("offset",
			"there is no query parameter offset; there are state, "+
				"region, vendor, reason, q, sort, limit, cursor")),
		get("/retry/policy?x", 400, refused("x", "there is no query parameter x: GET /api/v1/retry/policy has none")),
		get("/events?typ=ban", 400, refused("typ", "there is no query parameter typ; did you mean type?")),
		call("DELETE", "/proxies/F1?drian=true", "", 400,
			refused("drian", "there is no query parameter drian; did you mean drain?")),
		get("/proxies?%ff%fe=1", 400, refused("?",
			"there is no query parameter ?; there are state, region, vendor, reason, q, sort, limit, "+
				"cursor")),
		get("/proxies/F1", 200),
	)
}

func TestGzipAndETag(t *testing.T) {
	r := newRig(t, nil)
	r.setPool(t, 100, nil)
	const path = "/api/v1/proxies?limit=50"
	plain, body := r.send(t, "GET", path, "")
	tag := plain.Header.Get("ETag")
	require.NotEmpty(t, tag)
	require.Equal(t, "Accept-Encoding", plain.Header.Get("Vary"))
	require.Empty(t, plain.Header.Get("Content-Encoding"))

	packed, content := r.send(t, "GET", path, "", "Accept-Encoding: br, gzip;q=0.5")
	require.Equal(t, "gzip", packed.Header.Get("Content-Encoding"))
	require.Equal(t, tag, packed.Header.Get("ETag"))
	unpacked, err := gzip.NewReader(bytes.NewReader(content))
	require.NoError(t, err)
	content, err = io.ReadAll(unpacked)
	require.NoError(t, err)
	require.Equal(t, string(body), string(content))

	short, _ := r.send(t, "GET", "/api/v1/proxies?limit=1", "", "Accept-Encoding: gzip")
	require.Empty(t, short.Header.Get("Content-Encoding"), "a short response is not compressed")
	identity, _ := r.send(t, "GET", path, "", "Accept-Encoding: gzip;q=0")
	require.Empty(t, identity.Header.Get("Content-Encoding"))

	for _, field := range []string{tag, `"x", ` + tag, "*", strings.TrimPrefix(tag, "W/")} {
		same, body := r.send(t, "GET", path, "", "If-None-Match: "+field)
		require.Equal(t, http.StatusNotModified, same.StatusCode, field)
		require.Empty(t, body)
		require.Equal(t, tag, same.Header.Get("ETag"))
	}
	r.trip("p20")
	changed, _ := r.send(t, "GET", path, "", "If-None-Match: "+tag)
	require.Equal(t, 200, changed.StatusCode)
	require.NotEqual(t, tag, changed.Header.Get("ETag"))
	refused, _ := r.send(t, "GET", "/api/v1/proxies/nope", "", "If-None-Match: *")
	require.Equal(t, 404, refused.StatusCode, "only a success has a tag")
}

func TestProxiesAsLines(t *testing.T) {
	r := newRig(t, nil)
	text := []string{"Content-Type: text/plain; charset=utf-8"}
	response, body := r.send(t, "POST", "/api/v1/proxies",
		"# two forms\n192.0.2.7:8080:ann:secret\r\n\nsocks5://192.0.2.8:1080#id=b&region=EU&weight=2\n", text...)
	require.Equal(t, 201, response.StatusCode, "%s", body)
	require.NotContains(t, string(body), "secret")
	u := r.pool.Snapshot().Get("192.0.2.7:8080")
	require.Equal(t, "ann", u.Spec().Address.Username)
	require.Equal(t, upstream.SourceAPI, u.Spec().Source)
	b := r.pool.Snapshot().Get("b").Spec()
	require.Equal(t, "EU", b.Region)
	require.EqualValues(t, 2, b.Weight)
	for body, want := range map[string]string{
		"192.0.2.9:1\nnonsense\n":                      "line 2: the line has none of the forms",
		"http://192.0.2.9:1#weight=-1":                 "line 1: the option weight is not a number",
		"https://192.0.2.9:1#ca_file=/etc/shadow":      "options of the configuration only",
		"http://192.0.2.9:1#id=F1":                     "already exists",
		"http://***@192.0.2.9:1":                       "line 1: *** stands for hidden credentials",
		"# nothing":                                    "the text has no proxy",
		"http://a b:1":                                 "line 1",
		"192.0.2.9:1\n" + strings.Repeat(" ", maxJSON): "larger than",
	} {
		response, got := r.send(t, "POST", "/api/v1/proxies", body, text...)
		require.Contains(t, string(got), want)
		require.GreaterOrEqual(t, response.StatusCode, 400)
		requireError(t, got, body)
		require.Len(t, r.pool.Snapshot().All, 4, "all or none")
	}
	response, _ = r.send(t, "POST", "/api/v1/proxies?persist=false", "192.0.2.10:1", text...)
	require.Equal(t, 201, response.StatusCode)
	r.check(t, call("POST", "/proxies?persist=false", `{"url":"http://192.0.2.11:1"}`, 201),
		call("POST", "/proxies?persist=x", `{"url":"http://192.0.2.12:1"}`, 400))
}

// The response to one poll of a pool of 10,000 proxies has at most 50 KB, even if the client does not accept gzip.
func TestAPollOfALargePoolIsSmall(t *testing.T) {
	r := newRig(t, nil)
	r.setPool(t, 10_000, nil)
	r.trip("p77")
	for _, query := range []string{"?limit=50", "?state=open&limit=50", "?q=10.3&limit=50",
		"?sort=-success_rate&limit=50"} {
		size := 0
		for _, path := range []string{"/proxies", "/circuit-breakers"} {
			_, body := r.send(t, "GET", "/api/v1"+path+query, "", "Accept-Encoding: gzip")
			size += len(body)
			_, body = r.send(t, "GET", "/api/v1"+path+query, "")
			require.Less(t, len(body), 50_000, path+query)
		}
		require.Less(t, size, 15_000, query)
	}
}

// BenchmarkPoll measures one poll of a pool of 10,000 proxies.
func BenchmarkPoll(b *testing.B) {
	r := newRig(b, nil)
	r.setPool(b, 10_000, nil)
	for _, path := range []string{"proxies?limit=50", "proxies?state=open,half_open&limit=50",
		"proxies?q=10.3&limit=50", "proxies?sort=-uses&limit=50", "status"} {
		b.Run(path, func(b *testing.B) {
			for b.Loop() {
				response, _ := r.send(b, "GET", "/api/v1/"+path, "", "Accept-Encoding: gzip")
				require.Equal(b, 200, response.StatusCode)
			}
		})
	}
}

// A page is the same whether the whole list or only its beginning is sorted.
func TestPagesAgainstASortedList(t *testing.T) {
	orders := []order[int]{numberOrder("number", func(n int) float64 { return float64(n % 7) }),
		textOrder("text", func(n int) string { return string(rune('a' + n%5)) })}
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOf(rapid.IntRange(0, 100)).Draw(t, "list")
		p := page[int]{hasTotal: true, elements: list,
			order: rapid.SampledFrom([]*order[int]{&orders[0], &orders[1]}).Draw(t,
				"order"), descending: rapid.Bool().Draw(t, "descending")}
		all := p.sorted(len(list))
		require.Len(t, all, len(list))
		p.offset, p.limit = rapid.IntRange(0, 20).Draw(t, "offset"), rapid.IntRange(1, 20).Draw(t, "limit")
		elements, rest := p.takePage()
		begin := min(p.offset, len(all))
		require.Equal(t, all[begin:min(begin+p.limit, len(all))], elements)
		require.Equal(t, len(list), rest.Total)
		require.Equal(t, begin+p.limit < len(all), rest.NextCursor != nil)
	})
}

// driftingPool has a clock that gains a few nanoseconds in each call.
type driftingPool struct {
	Pool
	calls time.Duration
}

func (p *driftingPool) TimeAt(elapsed time.Duration) time.Time {
	p.calls++
	return noon.Add(elapsed + 3*p.calls)
}

// If a response has not changed, its times stay the same, and so does its ETag.
func TestTimesWithADriftingClock(t *testing.T) {
	p, at := &driftingPool{}, 1234567*time.Nanosecond
	require.Equal(t, noon.Add(time.Millisecond), timeAt(p, at))
	require.Equal(t, noon.Add(time.Millisecond), timeAt(p, at))
}
