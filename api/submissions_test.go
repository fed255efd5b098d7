package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
)

const submittedInput = `{"url":"http://a.test/"}`

func TestASubmittedRequest(t *testing.T) {
	r := newRig(t, nil)
	r.engine.result = responseOf("hi")
	response, body := r.send(t, "POST", "/api/v1/requests", submittedInput)
	require.Equal(t, 202, response.StatusCode)
	require.Equal(t, "/api/v1/requests/0000000000000020/response", response.Header.Get("Location"))
	require.Equal(t, `{"id":"0000000000000020","started_at":"2026-11-28T12:00:00Z"}`+"\n", string(body))
	const out = `{"request_id":"0000000000000020","outcome":"success","status":200,"headers":{"X-A":["b","c"]},` +
		`"body":"hi","truncated":false,"attempts":` + attemptViews + `}`
	unknown := `{"error":"not_found","message":"no request \"0000000000000020\" of POST /requests is in flight or ` +
		`has ended in the last 10 minutes"}`
	r.check(t,
		get("/requests/0000000000000020/response", 200, out),
		get("/requests/0000000000000020/response", 200, out),
		get("/requests/20/response", 404),
		get("/requests/0000000000000021/response", 404),
		call("DELETE", "/requests/0000000000000021", "", 404),
	)
	require.NotContains(t, r.log.String(), "changed through the API")
	r.check(t,
		call("DELETE", "/requests/0000000000000020", "", 204, ""),
		get("/requests/0000000000000020/response", 404, unknown),
		call("DELETE", "/requests/0000000000000020", "", 404, unknown),
	)
	require.Equal(t, []string{"/ DELETE /requests/0000000000000020? [request/0000000000000020] 1"}, r.entries(t, ""))
}

func TestASubmittedRequestWithoutAResponse(t *testing.T) {
	r := newRig(t, nil)
	r.engine.result = &engine.Result{ID: 0x20, Final: core.FinalAllBreakersOpen, Attempts: attempts,
		Failure: &proxyhttp.ErrorResponse{Status: 503, Code: "x", Message: "all open", RetryAfter: time.Second}}
	r.check(t, call("POST", "/requests", submittedInput, 202))
	response, body := r.send(t, "GET", "/api/v1/requests/0000000000000020/response", "")
	require.Equal(t, 503, response.StatusCode)
	require.Equal(t, "1", response.Header.Get("Retry-After"))
	require.Equal(t, `{"error":"all_breakers_open","message":"all open","details":{"attempts":`+attemptViews+
		`,"request_id":"0000000000000020"}}`+"\n", string(body))
}

// An invalid request gets an error at once. A request that arrives while the gateway shuts down also gets an error at
// once.
func TestAnInvalidRequestIsNotSubmitted(t *testing.T) {
	r := newRig(t, nil)
	r.check(t,
		call("POST", "/requests", `{"url":"nope"}`, 400),
		call("POST", "/requests", `{"url":"http://a.test/","retry":{"max_attempts":0}}`, 400),
	)
	r.engine.err = &engine.RequestError{Msg: "CONNECT is for the gateway's port"}
	r.check(t, call("POST", "/requests", submittedInput, 400,
		`{"error":"invalid_request","message":"CONNECT is for the gateway's port"}`))
	r.engine.do = func(context.Context, engine.Call) (*engine.Result, error) { panic("fault") }
	r.check(t, call("POST", "/requests", submittedInput, 500))
	require.Contains(t, r.log.String(), "panic in a submitted request")
}

func TestTheResponseOfASubmittedRequestNeedsTheRoleAdmin(t *testing.T) {
	r := newRig(t, func(_ *rig, c *Config) {
		c.Keys = []Key{{Name: "ops", Secret: "a", Admin: true}, {Name: "view", Secret: "b"}}
	})
	r.engine.result = responseOf("hi")
	admin, reader := "Authorization: Bearer a", "Authorization: Bearer b"
	for _, x := range []struct {
		method, path, body, key string
		status                  int
	}{
		{"POST", "/requests", submittedInput, reader, 403},
		{"POST", "/requests", submittedInput, admin, 202},
		{"GET", "/requests/0000000000000020/response", "", reader, 403},
		{"GET", "/requests/0000000000000020/response", "", admin, 200},
		{"DELETE", "/requests/0000000000000020", "", reader, 403},
		{"DELETE", "/requests/0000000000000020", "", admin, 204},
	} {
		response, _ := r.send(t, x.method, "/api/v1"+x.path, x.body, x.key)
		require.Equal(t, x.status, response.StatusCode, "%s %s with %s", x.method, x.path, x.key)
	}
}

// stuckCalls is a fake of Engine.Do whose calls end when they are cancelled.
type stuckCalls struct {
	mu     sync.Mutex
	lastID core.RequestID
	ended  sync.WaitGroup
}

func (s *stuckCalls) do(ctx context.Context, call engine.Call) (*engine.Result, error) {
	defer s.ended.Done()
	s.mu.Lock()
	s.lastID++
	id := s.lastID
	s.mu.Unlock()
	call.OnBegin(id)
	<-ctx.Done()
	return nil, errors.New("cancelled")
}

func TestACancelledRequest(t *testing.T) {
	r := newRig(t, nil)
	calls := &stuckCalls{}
	r.engine.do = calls.do
	calls.ended.Add(1)
	r.check(t, call("POST", "/requests", submittedInput, 202))
	response, body := r.send(t, "GET", "/api/v1/requests/0000000000000001/response", "", "Prefer: respond-async")
	require.Equal(t, 202, response.StatusCode)
	require.Equal(t, `{"id":"0000000000000001","started_at":"2026-11-28T12:00:00Z"}`+"\n", string(body))
	r.check(t,
		call("DELETE", "/requests/0000000000000001", "", 204, ""),
		get("/requests/0000000000000001/response", 404),
	)
	calls.ended.Wait() // the call's context has ended
}

func TestTheNumberOfSubmittedRequestsInFlightIsLimited(t *testing.T) {
	r := newRig(t, nil)
	calls := &stuckCalls{}
	r.engine.do = calls.do
	calls.ended.Add(maxSubmissionsInFlight)
	for range maxSubmissionsInFlight {
		r.check(t, call("POST", "/requests", submittedInput, 202))
	}
	response, body := r.send(t, "POST", "/api/v1/requests", submittedInput)
	require.Equal(t, 503, response.StatusCode)
	require.Equal(t, "1", response.Header.Get("Retry-After"))
	require.Contains(t, string(body), "too_many_submitted")
	stopped, stop := context.WithCancel(t.Context())
	stop()
	require.NoError(t, r.Server.Shutdown(stopped))
	calls.ended.Wait()
}

// Kept responses and requests in flight have limited memory: the oldest response is discarded for a newer one. Without
// kept responses, the body of a response is cut off.
func TestSubmittedRequestsHaveLimitedMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s submissions
		begin := func(id core.RequestID, bytes int) *submission {
			x := s.begin(time.Now(), func() {}, bytes)
			if x != nil {
				s.setID(x, id)
			}
			return x
		}
		const third = maxSubmissionMemory / 3
		for id := core.RequestID(1); id <= 4; id++ {
			x := begin(id, 0)
			require.True(t, s.growMemory(x, third-recordBytes))
			s.end(x, &responseView{}, nil)
		}
		require.Nil(t, s.find(1), "the oldest response is forgotten")
		require.NotNil(t, s.find(2))
		large := begin(5, maxSubmissionMemory-recordBytes)
		require.NotNil(t, large)
		require.Nil(t, s.find(4))
		require.False(t, s.growMemory(large, 1))
		require.Nil(t, begin(6, 0))
		require.True(t, s.remove(large))
		require.False(t, s.remove(large))
		require.False(t, s.growMemory(large, 0), "a removed request gets no memory")
		require.NotZero(t, s.memory.Used(), "the request is still in flight")
		s.end(large, nil, context.Canceled)
		require.Zero(t, s.memory.Used())

		s.end(begin(7, third), &responseView{}, nil)
		require.EqualValues(t, recordBytes, s.memory.Used(), "an ended request has no body")
		time.Sleep(keepResponse - 1)
		require.NotNil(t, s.find(7))
		time.Sleep(2 * time.Nanosecond)
		synctest.Wait()
		require.Nil(t, s.find(7), "the response has expired")
		require.Zero(t, s.memory.Used())
		require.Zero(t, s.inFlight)
		require.Empty(t, s.ended)

		for id := core.RequestID(1); id <= maxSubmissions+1; id++ {
			s.end(begin(id, 0), &responseView{}, nil)
		}
		require.Nil(t, s.find(1))
		require.NotNil(t, s.find(2))
		require.Len(t, s.ended, maxSubmissions)
	})
}

func TestABodyWithoutMemoryIsCutOff(t *testing.T) {
	left := 5
	result := responseOf("")
	result.Response.Header = nil
	result.Response.Body = io.NopCloser(io.MultiReader(strings.NewReader("hello"), strings.NewReader("world")))
	v := readResponse(result, func(n int) bool {
		left -= n
		return left >= 0
	})
	require.Equal(t, "hello", *v.Body)
	require.True(t, v.Truncated)
	require.Equal(t, 6, fieldBytes(http.Header{"A": {"bc", "de"}}))
}

// A header or a trailer without memory is not kept.
func TestFieldsWithoutMemoryAreNotKept(t *testing.T) {
	read := func(refused int) *responseView {
		result := responseOf("hi")
		result.Response.Trailer = http.Header{"Sum": {"1"}, "Announced": nil}
		return readResponse(result, func(n int) bool { return n != refused })
	}
	header, trailer := map[string][]string{"X-A": {"b", "c"}}, map[string][]string{"Sum": {"1"}}
	for _, x := range []struct {
		refused         int // bytes of the part that gets no memory
		header, trailer map[string][]string
	}{
		{0, header, trailer},
		{8, map[string][]string{}, trailer},
		{4, header, nil},
	} {
		v := read(x.refused)
		require.Equal(t, x.header, v.Headers)
		require.Equal(t, "hi", *v.Body)
		require.Equal(t, x.trailer, v.Trailers)
		require.Equal(t, x.refused != 0, v.Truncated)
	}
}
