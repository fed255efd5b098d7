package executor

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
)

// Request is what Run is given. The caller must not change it until the Ending is closed, but
// for Replayable.
type Request struct {
	ID           core.RequestID
	Policy       *retry.Policy // the policy of this request
	Global       *retry.Policy // the policy that decides which statuses breakers count
	Method       string        // for the log
	Host         string        // of the target, without port, lower case; for scorers and the log
	Target       evidence.Target
	Region       string // the wanted region; "" for none
	RegionStrict bool   // no proxy of another region is used
	Idempotent   bool   // may be repeated without opting in (RFC 9110 section 9.2.2)
	Tunnel       bool   // a tunnel is asked for
	Listener     core.Listener
	Replayable   bool      // the body, if any, can be sent again; a Sender may set it to false
	Progress     Progress  // receives each step; nil for none
	BeforeWait   func()    // called before each wait for a retry; nil for none
	KeepEvents   bool      // keep the attempt events in Result.Events
	Started      time.Time // when the request came; zero for the call of Run
	Ready        time.Time // when its body had been read for replay: timeouts count from here; zero for Started
}

// Progress receives the steps of one request, for the tracker.
type Progress interface {
	Attempt(number int, proxyID string)
	Waiting(until time.Time, retry int)
	Finished(*core.AttemptEvent)
	Streaming() // a response is about to be relayed
	Tunnel()    // a tunnel stands
	End(final core.Final, status int, at time.Time)
}

// Result is the state of an exchange that Run has returned.
type Result struct {
	Final    core.Final // of a relay, it may change when that is closed
	Attempts int        // without replays
	ProxyID  string     // of the last attempt; "" if there was none
	Waited   time.Duration
	Events   []core.AttemptEvent // of the finished attempts; only with KeepEvents
}

// tighterTimeout reports whether the total timeout is tighter than the global policy's.
// When it passes, that is no evidence against a proxy then.
func (q *Request) tighterTimeout() bool {
	own, global := q.Policy.Timeout, q.Global.Timeout
	return own != nil && (global == nil || *own < *global)
}
