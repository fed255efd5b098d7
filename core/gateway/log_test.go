package gateway

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/accesslog"
)

// trackedIDs is a tracker that keeps the ids of clients.
type trackedIDs struct {
	untracked
	ids chan string
}

func (t trackedIDs) Track() TrackerEntry   { return t }
func (t trackedIDs) SetClientID(id string) { t.ids <- id }

// A valid X-Request-Id is in the log and in the tracker, even if the request is refused. The target gets each
// X-Request-Id unchanged, valid or not, unless Connection names the field.
func TestTheClientsRequestID(t *testing.T) {
	log, tracked := &accessRecords{}, trackedIDs{ids: make(chan string, 1)}
	r := newRig(t, answering(func(q *http.Request, _ string) string {
		return ok(strings.Join(q.Header["X-Request-Id"], ","))
	}), func(o *options) { o.access, o.tracker = log, tracked })
	longest := strings.Repeat("a", maxClientID)
	last := func(n int) (record accesslog.Record) { // the record of the n-th request
		r.eventually("the request is logged", func() bool {
			log.mu.Lock()
			defer log.mu.Unlock()
			if len(log.all) == n {
				record = log.all[n-1]
			}
			return len(log.all) == n
		})
		return record
	}
	for i, c := range []struct{ fields, taken, passed string }{
		{"", "", ""},
		{"x-request-id: 5a-1~!\r\n", "5a-1~!", "5a-1~!"},
		{"X-Request-Id: " + longest + "\r\n", longest, longest},
		{"X-Request-Id: " + longest + "b\r\n", "", longest + "b"},
		{"X-Request-Id: a b\r\n", "", "a b"},
		{"X-Request-Id: \xc3\xa9\r\n", "", "\xc3\xa9"},
		{"X-Request-Id:\r\n", "", ""},
		{"X-Request-Id: a\r\nX-Request-Id: b\r\n", "", "a,b"},
		{"X-Request-Id: a\r\nConnection: x-request-id\r\n", "", ""},
	} {
		client := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n" + c.fields + "\r\n")
		_, body := client.answer("GET")
		require.Equal(t, c.passed, body, c.fields)
		record := last(i + 1)
		require.Equal(t, c.taken, record.ClientID, c.fields)
		require.Equal(t, core.FinalSuccess, record.Final)
		if c.taken != "" {
			require.Equal(t, c.taken, <-tracked.ids)
		}
		require.Empty(t, tracked.ids)
	}
	refused := r.ask("GET http://[ HTTP/1.1\r\nHost: a.test\r\nX-Request-Id: a\r\n\r\n")
	answer, _ := refused.answer("GET")
	require.Equal(t, 400, answer.StatusCode)
	record := last(10)
	require.Equal(t, "a", record.ClientID)
	require.False(t, record.Executed)
	require.Empty(t, tracked.ids)
}
