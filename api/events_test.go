package api

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/eventstream"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/output"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// eventClient reads GET /events on a connection in memory.
type eventClient struct {
	t      *testing.T
	conn   net.Conn
	status int
	in     *bufio.Reader // the body
	ended  chan error    // receives a value when the server no longer uses the connection
}

// listen requests the events. query begins with "?", or is empty.
func (r *rig) listen(t *testing.T, query string, headers ...string) *eventClient {
	client, server := net.Pipe()
	c := &eventClient{t: t, conn: client, ended: make(chan error, 1)}
	r.app.Handler() // builds the tree of routes
	go func() {
		err := r.app.Server().ServeConn(server)
		server.Close()
		c.ended <- err
	}()
	head := "GET /api/v1/events" + query + " HTTP/1.1\r\nHost: localhost\r\n"
	for _, h := range headers {
		head += h + "\r\n"
	}
	_, err := io.WriteString(client, head+"\r\n")
	require.NoError(t, err)
	response, err := http.ReadResponse(bufio.NewReader(client), &http.Request{Method: "GET"})
	require.NoError(t, err)
	c.status, c.in = response.StatusCode, bufio.NewReader(response.Body)
	if c.status == 200 {
		require.Equal(t, "text/event-stream", response.Header.Get("Content-Type"))
		require.Equal(t, "no-store", response.Header.Get("Cache-Control"))
		require.Equal(t, "retry: 2000", c.block())
	}
	return c
}

// block returns the lines up to the next empty line, or "EOF".
func (c *eventClient) block() string {
	c.t.Helper()
	var lines []string
	for {
		line, err := c.in.ReadString('\n')
		if errors.Is(err, io.EOF) && line == "" {
			return "EOF"
		}
		require.NoError(c.t, err)
		if line == "\n" {
			return strings.Join(lines, "\n")
		}
		lines = append(lines, strings.TrimSuffix(line, "\n"))
	}
}

// inBubble runs f in virtual time. The first server of Fiber starts goroutines that never end, so inBubble
// makes one before.
func inBubble(t *testing.T, f func(t *testing.T)) {
	newRig(t, nil).send(t, "GET", "/healthz", "")
	synctest.Test(t, f)
}

// activate adds one event.
func (r *rig) activate(plugin string) { r.cfg.Events.PluginActivated("first", plugin) }

func activation(life string, id int, plugin string) string {
	return fmt.Sprintf("id: %s-%d\nevent: activation\ndata: {\"at\":\"2026-11-28T12:00:00Z\",\"for\":\"first\","+
		"\"plugin\":%q}", life, id, plugin)
}

func TestEventsOfEveryType(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, nil)
		e := r.cfg.Events
		c := r.listen(t, "?type="+strings.Join(eventTypes, ","))
		r.policies.OnChange(e.PolicyChanged)
		e.Transition(core.Transition{ProxyID: "F1", From: core.Closed, To: core.Open, At: noon, FailureCount: 5,
			Reason: "threshold", Why: "12 of 12 failed"})
		e.PluginLine("mine", output.Line{Number: 3, At: noon, Level: wasmhost.LevelWarn, Text: "two\nlines"})
		e.PluginFault(plugins.FaultReport{Plugin: "mine", At: noon, Reason: "trap", Err: errors.New("panic"),
			Faults: 2, Calls: 9})
		e.PluginFault(plugins.FaultReport{Plugin: "mine", At: noon, Reason: "trap", Err: errors.New("panic"),
			Faults: 5, Calls: 5, Quarantined: true})
		r.activate("random")
		r.check(t, call("PUT", "/retry/policy", `{"max_attempts":2}`, 200))
		e.ConfigReloaded(r.reload)
		e.ProxyBanned("F1", "a.test", noon)
		e.Request(exhausted(7))
		e.Attempt(&exhausted(7).Attempts[1])
		const at = `"2026-11-28T12:00:00Z"`
		for i, want := range []string{
			`breaker {"proxy_id":"F1","from_state":"closed","to_state":"open","timestamp":` + at +
				`,"failure_count":5,"reason":"threshold","why":"12 of 12 failed"}`,
			`plugin_log {"plugin":"mine","number":3,"at":` + at + `,"level":"warn","text":"two\nlines"}`,
			`plugin_fault {"plugin":"mine","at":` + at + `,"reason":"trap","error":"panic","faults":2,"calls":9}`,
			`plugin_quarantine {"plugin":"mine","at":` + at + `,"reason":"trap","error":"panic","faults":5,"calls":5}`,
			`activation {"at":` + at + `,"for":"first","plugin":"random"}`,
			`policy {"max_attempts":2,`,
			`change {"at":` + at + `,"key":"","method":"PUT","path":"/api/v1/retry/policy","query":"",` +
				`"node":"","changed":["max_attempts"],"changed_total":1}`,
			`reload {"ok":true,"at":` + at + `,"faults":[],"restart":[]}`,
			`ban {"at":` + at + `,"proxy_id":"F1","host":"a.test","until":` + at + `}`,
			`exhaustion {"at":` + at + `,"request_id":"0000000000000007","method":"GET","host":"shop.test",` +
				`"outcome":"exhausted","status":502,"attempts":3,` +
				`"causes":{"banned_here":1,"proxy_unreachable":2},"folded":0}`,
		} {
			eventType, data, _ := strings.Cut(want, " ")
			got := c.block()
			require.Contains(t, got, fmt.Sprintf("id: %s-%d\nevent: %s\ndata: %s", e.idPrefix, i+1, eventType, data))
			require.Equal(t, 2, strings.Count(got, "\n"), "data is one line")
		}
		require.Contains(t, c.block(), `event: request`+"\n"+
			`data: {"id":"0000000000000007","method":"GET","host":"shop.test","state":"done",`)
		require.Contains(t, c.block(), `event: attempt`+"\n"+
			`data: {"request_id":"0000000000000007","host":"shop.test","attempt":1,"proxy_id":"F2",`)
		c.conn.Close()
		<-c.ended
	})
}

func TestLastEventID(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, nil)
		life := r.cfg.Events.idPrefix
		for i := range eventstream.MaxEvents + 2 {
			r.activate(fmt.Sprint("p", i+1))
		}
		last := eventstream.MaxEvents + 2
		for _, x := range []struct {
			name, id string
			lost     int
			first    int // 0 for no event
		}{
			{"none: new ones only", "", 0, 0},
			{"the last one", fmt.Sprint(life, "-", last), 0, 0},
			{"one before", fmt.Sprint(life, "-", last-1), 0, last},
			{"no longer kept", fmt.Sprint(life, "-1"), 1, 3},
			{"of another process", "abc-7", 2, 3},
			{"not yet given", fmt.Sprint(life, "-", last+1), 2, 3},
			{"another form of a number", fmt.Sprint(life, "-0", last), 2, 3},
			{"nonsense", "é-", 2, 3},
		} {
			header := "Last-Event-ID: " + x.id
			if x.id == "" {
				header = "X: y"
			}
			c := r.listen(t, "", header)
			if x.lost > 0 {
				require.Equal(t, fmt.Sprintf("event: lost\ndata: {\"events\":%d}", x.lost), c.block(), x.name)
			}
			if x.first > 0 {
				require.Equal(t, activation(life, x.first, fmt.Sprint("p", x.first)), c.block(), x.name)
			} else {
				synctest.Wait()
				require.Zero(t, c.in.Buffered(), x.name)
			}
			c.conn.Close()
			<-c.ended
		}
	})
}

func TestTypesOfEvents(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, nil)
		life := r.cfg.Events.idPrefix
		c := r.listen(t, "?type=activation,reload&type=policy")
		r.cfg.Events.PluginLine("mine", output.Line{Number: 1, At: noon, Text: "hidden"})
		r.activate("a")
		require.Equal(t, activation(life, 2, "a"), c.block())
		r.cfg.Events.PluginLine("mine", output.Line{Number: 2, At: noon, Text: "hidden"})
		begun := time.Now()
		require.Equal(t, ": heartbeat\nid: "+life+"-3", c.block(), "the position moves past events of other types")
		require.Equal(t, heartbeatInterval, time.Since(begun))
		require.Equal(t, ": heartbeat", c.block())
		require.Equal(t, 2*heartbeatInterval, time.Since(begun))
		c.conn.Close()
		<-c.ended
		for _, query := range []string{"?type=nope", "?type=", "?type=breaker,", "?type=lost", "?types=breaker",
			"?type=breaker&since=3"} {
			c := r.listen(t, query, "Connection: close")
			require.Equal(t, 400, c.status, query)
			require.NoError(t, <-c.ended)
		}
	})
}

// exhausted returns a request that ended as exhausted after three attempts.
func exhausted(id core.RequestID) *metrics.Request {
	r := &metrics.Request{ID: id, Method: "GET", Host: "shop.test", State: metrics.StateDone, Started: noon,
		Ended: noon, Final: core.FinalExhausted, Status: 502}
	for i, cause := range []core.Cause{verdict.ProxyUnreachable, verdict.ProxyUnreachable, verdict.BannedHere} {
		r.Attempts = append(r.Attempts, core.AttemptEvent{Request: id, ProxyID: fmt.Sprint("F", i+1), Host: r.Host,
			Attempt: i, Started: noon, Ended: noon, Outcome: core.Outcome{Result: core.ResultFailure, Cause: cause}})
	}
	return r
}

// In a flood of exhausted requests there is one event at once and one in each second after it. Each request has its
// own event, or is counted in the event at the end of an interval.
func TestExhaustionsAreFolded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, nil)
		c := r.listen(t, "")
		const flood = 1000
		for i := range flood {
			r.cfg.Events.Request(exhausted(core.RequestID(i)))
			time.Sleep(3 * time.Millisecond)
		}
		served := exhausted(1)
		served.Final = core.FinalSuccess
		r.cfg.Events.Request(served)
		total := 0
		for i, first := range []int{0, 1, 334, 667} { // the first of each interval; the flood takes 3 s
			event := c.block()
			require.Contains(t, event, `"request_id":"`+core.RequestID(first).String()+`"`, i)
			var v exhaustionView
			require.NoError(t, json.Unmarshal([]byte(event[strings.Index(event, "{"):]), &v))
			total += 1 + v.Folded
		}
		require.Equal(t, flood, total)
		time.Sleep(2 * exhaustionInterval)
		r.cfg.Events.Request(exhausted(7))
		require.Contains(t, c.block(), `"request_id":"0000000000000007"`, "the flood is over: published at once")
		c.conn.Close()
		<-c.ended
	})
}

// A flood of requests for which all breakers are open and a flood of exhausted requests have separate events.
func TestExhaustionsByOutcome(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, nil)
		c := r.listen(t, "")
		outcomes := []core.Final{core.FinalExhausted, core.FinalAllBreakersOpen, core.FinalAllBanned,
			core.FinalAllBannedHere, core.FinalPoolEmpty}
		for _, final := range append(outcomes, core.FinalSuccess, core.FinalTimeout, core.FinalCancelled,
			core.FinalDeniedByRule) {
			for range 10 {
				q := exhausted(1)
				q.Final = final
				r.cfg.Events.Request(q)
			}
		}
		counts := map[string]int{}
		for range 2 * len(outcomes) {
			event := c.block()
			var v exhaustionView
			require.NoError(t, json.Unmarshal([]byte(event[strings.Index(event, "{"):]), &v))
			counts[v.Outcome] += 1 + v.Folded
		}
		want := map[string]int{}
		for _, final := range outcomes {
			want[final.String()] = 10
		}
		require.Equal(t, want, counts)
		c.conn.Close()
		<-c.ended
	})
}

// Requests and attempts are sent only to clients that ask for them. A sample has a request with all its attempts.
func TestSampledRequests(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, nil)
		e := r.cfg.Events
		plain := r.listen(t, "")
		require.False(t, e.stream.HasSamplers(), "nobody listens")
		none := r.listen(t, "?type=request&type=attempt&sample=0")
		some := r.listen(t, "?type=request,attempt,activation&sample=0.25")
		const requests = 400
		for id := range core.RequestID(requests) {
			q := exhausted(id)
			q.Final = core.FinalSuccess
			e.Attempt(&q.Attempts[0])
			e.Request(q)
		}
		r.activate("a")
		synctest.Wait()
		sent := 0
		for id := range core.RequestID(requests) {
			if !id.InSample(0.25) {
				continue
			}
			sent++
			for _, field := range []string{`"request_id":`, `"id":`} {
				event := some.block()
				if strings.Contains(event, "event: activation") { // comes before the events that have not been read
					event = some.block()
				}
				require.Contains(t, event, field+`"`+id.String()+`"`)
			}
		}
		require.InDelta(t, requests/4, sent, 5)
		require.Contains(t, plain.block(), "event: activation")
		require.Contains(t, none.block(), ": heartbeat")
		for _, c := range []*eventClient{plain, none, some} {
			c.conn.Close()
			<-c.ended
		}
		require.False(t, e.stream.HasSamplers())
		for _, query := range []string{"?sample=1", "?type=breaker&sample=0.5", "?type=request&sample=1.1",
			"?type=request&sample=-1", "?type=request&sample=x", "?type=request&sample=NaN", "?type=request&sample=",
			"?type=request&sample=0x1p-2", "?type=request&sample=1&sample=1"} {
			c := r.listen(t, query, "Connection: close")
			require.Equal(t, 400, c.status, query)
			require.NoError(t, <-c.ended)
		}
	})
}

// Without a client that asks for requests, a request and an attempt allocate nothing.
func TestAllocationsWithoutListeners(t *testing.T) {
	e := NewEvents(func() time.Time { return noon })
	q := exhausted(1)
	q.Final = core.FinalSuccess
	require.Zero(t, testing.AllocsPerRun(100, func() {
		e.Attempt(&q.Attempts[0])
		e.Request(q)
	}))
}

func TestEventsOfAClientThatLeavesOrStalls(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, nil)
		var all []*eventClient
		for range eventstream.MaxReaders {
			all = append(all, r.listen(t, ""))
		}
		refused := r.listen(t, "", "Connection: close")
		require.Equal(t, 429, refused.status)
		<-refused.ended

		all[0].conn.Close()
		<-all[0].ended // the body ends at once: the server does not wait for the next heartbeat
		all[0] = r.listen(t, "")
		require.Equal(t, 200, all[0].status)

		stalled := all[1]
		begun := time.Now()
		r.activate("a") // the client of stalled does not read it
		require.Contains(t, all[0].block(), "activation", "others get it")
		require.Zero(t, time.Since(begun))
		require.Error(t, <-stalled.ended)
		require.Equal(t, eventWriteTimeout, time.Since(begun))

		// Shutdown ends every stream.
		go r.Shutdown(t.Context())
		require.Equal(t, "EOF", all[0].block())
		<-all[0].ended
		for _, c := range all[2:] {
			c.conn.Close()
			<-c.ended
		}
		late := r.listen(t, "", "Connection: close")
		require.Equal(t, 503, late.status)
		<-late.ended
	})
}

func TestKeysOfEvents(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, withKeys)
		for _, header := range []string{"X: y", "Authorization: Bearer wrong"} {
			c := r.listen(t, "", header, "Connection: close")
			require.Equal(t, 401, c.status)
			<-c.ended
		}
		c := r.listen(t, "", readerHeader)
		r.activate("a")
		require.Contains(t, c.block(), `"plugin":"a"`)
		r.SetKeys([]Key{{Name: "other", Secret: "another-key-0123456789"}}, false)
		r.activate("secret")
		require.Equal(t, "EOF", c.block(), "the key is not valid any more")
		<-c.ended
	})
}

func TestHeadOfEvents(t *testing.T) {
	r := newRig(t, nil)
	for range eventstream.MaxReaders + 1 {
		response, body := r.send(t, "HEAD", "/api/v1/events", "")
		require.Equal(t, 200, response.StatusCode)
		require.Equal(t, "text/event-stream", response.Header.Get("Content-Type"))
		require.Empty(t, body)
	}
}

func FuzzLastEventID(f *testing.F) {
	e := NewEvents(func() time.Time { return noon })
	for range 20 {
		e.PluginActivated("first", "a")
	}
	for _, id := range []string{
		"", "0", e.eventID(0), e.eventID(7), e.eventID(20), e.eventID(21), e.idPrefix, e.idPrefix + "-+7",
		e.idPrefix + "-07",
	} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		after := e.position(id)
		require.LessOrEqual(t, after, uint64(20))
		if after > 0 {
			require.Equal(t, id, e.eventID(after))
		}
	})
}
