package accesslog

import (
	"encoding/json"
	"errors"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// lines is a writer that keeps the lines. It fails if a call of Write has not exactly one line.
type lines struct {
	t   *testing.T
	all []string
}

func (l *lines) Write(b []byte) (int, error) {
	require.Equal(l.t, 1, strings.Count(string(b), "\n"), "%q", b)
	require.Equal(l.t, byte('\n'), b[len(b)-1])
	l.all = append(l.all, string(b))
	return len(b), nil
}

func filter(t *testing.T, s string) Filter {
	f, err := ParseFilter(s)
	require.NoError(t, err)
	return f
}

// served is the record of a request that its second attempt served.
func served() Record {
	began := time.Date(2026, 11, 29, 3, 0, 0, 0, time.UTC)
	return Record{
		ID: 0xabc, Client: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4711}, User: "ann", Method: "GET",
		Target: "shop.example:80", Minor: 1, Status: 200, Final: core.FinalSuccess, Executed: true, Received: 3,
		Sent:    1234,
		Started: began, Ended: began.Add(1500 * time.Millisecond), WaitTime: 50 * time.Millisecond,
		Attempts: []core.AttemptEvent{
			{ProxyID: "p 1", Started: began, Ended: began.Add(time.Second),
				Outcome: core.Outcome{Result: core.ResultTimeout, Cause: verdict.NoAnswerInTime}},
			{ProxyID: "p2", Started: began.Add(time.Second), Ended: began.Add(1400 * time.Millisecond), Hedge: true,
				Outcome: core.Outcome{Result: core.ResultSuccess, Cause: verdict.Answered, Status: 200}},
		},
	}
}

func TestFormats(t *testing.T) {
	refused := Record{
		ID: 1, Client: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4711}, Method: "GE\"\nT", Status: 407, Code: "x",
	}
	named := refused
	named.ClientID = "a-1"
	routed := refused
	routed.Rules = core.RuleLabels{"ads", "rules[3]"}
	routed.Attempts = []core.AttemptEvent{{ProxyID: "p", Rule: "rules[1]", Outcome: core.Outcome{
		Result: core.ResultFailure, Cause: verdict.BannedHere}}}
	for _, c := range []struct {
		format   string
		record   Record
		expected string
	}{
		{JSON, served(),
			`{"time":"2026-11-29T03:00:01.500Z","request_id":"0000000000000abc","client":"192.0.2.1:4711",` +
				`"user":"ann","listener":"http","method":"GET","target":"shop.example:80",` +
				`"status":200,"outcome":"success",` +
				`"received_bytes":3,"sent_bytes":1234,"duration":1.5,"waited":0.05,"attempts":[` +
				`{"proxy":"p 1","result":"timeout","cause":"no_answer_in_time","duration":1},` +
				`{"proxy":"p2","result":"success","cause":"answered","status":200,"duration":0.4,"hedge":true}]}`},
		{JSON, refused,
			`{"time":"0001-01-01T00:00:00.000Z","request_id":"0000000000000001","client":"192.0.2.1:4711",` +
				`"listener":"http","method":"GE\"\nT","target":"","status":407,"outcome":"refused","error":"x",` +
				`"received_bytes":0,"sent_bytes":0,"duration":0,"waited":0,"attempts":[]}`},
		{JSON, named,
			`{"time":"0001-01-01T00:00:00.000Z","request_id":"0000000000000001","client_request_id":"a-1",` +
				`"client":"192.0.2.1:4711","listener":"http","method":"GE\"\nT","target":"","status":407,` +
				`"outcome":"refused","error":"x","received_bytes":0,"sent_bytes":0,"duration":0,"waited":0,` +
				`"attempts":[]}`},
		{JSON, routed,
			`{"time":"0001-01-01T00:00:00.000Z","request_id":"0000000000000001","client":"192.0.2.1:4711",` +
				`"listener":"http","method":"GE\"\nT","target":"","status":407,"outcome":"refused","error":"x",` +
				`"received_bytes":0,"sent_bytes":0,"duration":0,"waited":0,"rules":["ads","rules[3]"],"attempts":[` +
				`{"proxy":"p","result":"failure","cause":"banned_here","duration":0,"rule":"rules[1]"}]}`},
		{Combined, served(),
			`192.0.2.1 - ann [29/Nov/2026:03:00:01 +0000] "GET shop.example:80 HTTP/1.1" ` +
				`200 1234 "-" "-" ` +
				`1.500 success p\x201=no_answer_in_time p2=answered`},
		{Combined, refused,
			`192.0.2.1 - - [01/Jan/0001:00:00:00 +0000] "GE\"\nT  HTTP/1.0" 407 0 "-" "-" 0.000 refused`},
	} {
		l, out := &Log{}, &lines{t: t}
		l.Configure(filter(t, "all"), c.format, out)
		l.Write(&c.record)
		require.Equal(t, []string{c.expected + "\n"}, out.all)
	}
}

func TestFilters(t *testing.T) {
	ok, retried, status, left, refused, exhausted := served(), served(), served(), served(), served(), served()
	retried.Attempts = nil
	status.Status = 404
	left.ClientLeft = true
	refused.Executed = false
	exhausted.Final = core.FinalExhausted
	for name, expected := range map[string]int{"off": 0, "errors": 4, "all": 6} {
		l, out := &Log{}, &lines{t: t}
		require.False(t, l.IsOn())
		l.Write(&ok) // has no effect before Configure
		l.Configure(filter(t, name), JSON, out)
		require.Equal(t, name != "off", l.IsOn())
		for _, r := range []Record{ok, retried, status, left, refused, exhausted} {
			l.Write(&r)
		}
		require.Len(t, out.all, expected, name)
	}
	for _, bad := range []string{"", "on", "ALL", "1", "0%", "-1%", "101%", "NaN%", "Inf%", "%", "1 %"} {
		_, err := ParseFilter(bad)
		require.ErrorContains(t, err, "must be", bad)
	}
}

// A sample has all errors, and about the configured share of the other requests. Ids that follow one another are
// sampled evenly.
func TestSamples(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		percent := rapid.SampledFrom([]string{"0.5%", "1%", "10%", "50%", "99%", "100%"}).Draw(t, "share")
		first := rapid.Uint64().Draw(t, "first id")
		f, err := ParseFilter(percent)
		require.NoError(t, err)
		const requests = 20_000
		admitted := 0
		for i := range uint64(requests) {
			r := Record{ID: core.RequestID(first + i), Executed: true, Status: 200, Final: core.FinalSuccess}
			if f.includes(&r) {
				admitted++
			}
			r.Status = 500
			require.True(t, f.includes(&r))
		}
		require.InDelta(t, f.successShare*requests, admitted, 30)
	})
}

// The words of a combined line are separated by one space each, whatever the names contain.
func FuzzCombined(f *testing.F) {
	f.Add("ann b", "p\"1", "GET", "a:1")
	word := regexp.MustCompile(`^192\.0\.2\.1 - \S+ \[[^]]*\] "(?:[^"\\]|\\.)*" \d+ \d+ "-" "-" ` +
		`\d+\.\d{3} success \S+=no_answer_in_time \S+=answered\n$`)
	f.Fuzz(func(t *testing.T, user, proxy, method, target string) {
		r := served()
		r.User, r.Attempts[0].ProxyID, r.Method, r.Target = user, proxy, method, target
		require.Regexp(t, word, string(r.appendCombined(nil)))
		var v map[string]any
		require.NoError(t, json.Unmarshal(r.appendJSON(nil), &v))
	})
}

// once is a writer that must not be used after it was replaced.
type once struct {
	mu       sync.Mutex
	replaced bool
	used     int
}

func (o *once) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.replaced {
		panic("used after Configure")
	}
	o.used++
	return 0, errors.New("a failing output")
}

// While the output is replaced, each line goes to exactly one output.
func TestAnOutputIsReplaced(t *testing.T) {
	l := &Log{}
	out := &once{}
	l.Configure(filter(t, "all"), JSON, out)
	var wg sync.WaitGroup
	const writers, each = 4, 500
	for range writers {
		wg.Go(func() {
			for range each {
				r := served()
				l.Write(&r)
			}
		})
	}
	total := 0
	for range 100 {
		next := &once{}
		l.Configure(filter(t, "all"), Combined, next)
		out.mu.Lock()
		out.replaced = true
		total += out.used
		out.mu.Unlock()
		out = next
	}
	wg.Wait()
	require.Equal(t, writers*each, total+out.used)
}
