package executor

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/session"
)

// Request is the input of Run. The caller must not change it until the Ending is closed, except for
// Replayable.
type Request struct {
	ID           core.RequestID
	Policy       *retry.Policy // policy of the request
	Global       *retry.Policy // global policy: breakers count its statuses as failures
	Method       string        // for the log
	Host         string        // host of the target, without port, in lower case; for scorers and the log
	Target       evidence.Target
	Region       string        // the wanted region; "" for none
	RegionStrict bool          // proxies of other regions are not used
	Regions      *core.Regions // the regions that may be used; nil for all
	Session      *session.Use  // the request's session; nil for none
	Idempotent   bool          // the method is idempotent (RFC 9110 section 9.2.2), so the request may be repeated
	Safe         bool          // may be hedged: its method is safe (RFC 9110 section 9.2.1), or it is a CONNECT
	Tunnel       bool          // the request is a CONNECT
	Priority     core.Priority
	TLS          bool // the URL is an https:// URL, so the request needs a tunnel
	Listener     core.Listener
	Replayable   bool      // the body, if any, can be sent again; a Sender may set it to false
	Progress     Progress  // receives each step; nil for none
	BeforeWait   func()    // called before each wait: in a queue, or for a retry; nil for none
	KeepEvents   bool      // keep the attempt events in Result.Events
	Started      time.Time // arrival of the request; zero for the time of Run
	Ready        time.Time // when the body had been read, at which the timeouts begin; zero for Started
}

// Progress receives the steps of one request, for the tracker.
type Progress interface {
	Attempt(number int, proxyID string)   // also for a hedge, and again for the first attempt if the hedge lost
	Queued(p core.Priority, at time.Time) // the request waits in a queue
	Dequeued(at time.Time)                // the wait in the queue has ended
	Waiting(until time.Time, retry int)
	Finished(*core.AttemptEvent)
	Streaming() // a response is being relayed
	Tunnel()    // a tunnel is open
	End(final core.Final, status int, at time.Time)
}

// Result is the state of an exchange after Run has returned.
type Result struct {
	Final    core.Final // may change when a relay is closed
	Attempts int        // without replays
	ProxyID  string     // of the last attempt; "" if there was none
	Waited   time.Duration
	// MovedFrom is the id of the proxy that the session had before, if the request has moved it to another one;
	// otherwise "".
	MovedFrom string
	Events    []core.AttemptEvent // of finished attempts; only with KeepEvents
}

// tighterTimeout reports whether the request's total timeout is shorter than that of the global policy. No
// proxy is charged when such a timeout passes.
func (q *Request) tighterTimeout() bool {
	own, global := q.Policy.Timeout, q.Global.Timeout
	return own != nil && (global == nil || *own < *global)
}
