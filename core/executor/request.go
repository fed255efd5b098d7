package executor

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/core/session"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
)

// Request is the input of Run. The caller must not change it until the Ending is closed, except for
// Replayable.
type Request struct {
	ID           core.RequestID
	Policy       *retry.Policy // policy of the request
	GlobalPolicy *retry.Policy // global policy: breakers count its retry_status_codes as failures
	Method       string        // for the log
	Host         string        // host of the target, without port, in lower case; for scorers and the log
	Target       evidence.Target
	Region       string          // the wanted region; "" for none
	RegionStrict bool            // proxies of other regions are not used
	PreferredTag float64         // core.Hash53 of a tag: proxies with the tag are preferred; 0 for none
	Regions      *core.Regions   // the regions that may be used; nil for all
	User         string          // name of the user, for rules; "" without users
	Path         []byte          // path of the URL, for rules; nil if it is unknown
	Route        rules.Route     // the routing rules that are applied (Executor.Route)
	Session      *session.Handle // the request's session; nil for none
	Idempotent   bool            // the method is idempotent (RFC 9110 section 9.2.2), so the request may be repeated
	Safe         bool            // the request may be hedged: its method is safe (RFC 9110), or it is a CONNECT
	WantsTunnel  bool            // the request is a CONNECT
	Priority     core.Priority
	TLS          bool // the URL is an https:// URL, so the request needs a tunnel
	Listener     core.Listener
	Replayable   bool           // the body, if any, can be sent again; a Sender may set it to false
	Progress     Progress       // receives each step; nil for none
	BeforeWait   func()         // called before each wait: in a queue, or for a retry; nil for none
	Meter        *traffic.Meter // of the user; nil for none
	KeepEvents   bool           // keep the attempt events in Result.Events
	Started      time.Time      // arrival of the request; zero for the time of Run
	BodyEnd      time.Time      // end of the body, from which the timeouts count; zero for Started
}

// Progress receives the steps of one request, for the tracker.
type Progress interface {
	SetRules(labels core.RuleLabels)         // of the routing rules that are applied
	BeginAttempt(number int, proxyID string) // also for a hedge, and again for the first attempt if the hedge lost
	BeginQueueWait(p core.Priority, at time.Time)
	EndQueueWait(at time.Time)
	BeginBackoff(until time.Time, retry int)
	EndAttempt(*core.AttemptEvent)
	BeginStreaming() // a response is being relayed
	BeginTunnel()    // a tunnel is open
	End(final core.Final, status int, at time.Time)
}

// Result is the state of an exchange after Run has returned.
type Result struct {
	Final       core.Final // may change when a relay is closed
	Attempts    int        // number of attempts; replays are not counted
	ProxyID     string     // of the last attempt; "" if there was none
	BackoffTime time.Duration
	// MovedFrom is the id of the session's previous proxy, if the request has moved the session; otherwise "".
	MovedFrom string
	Events    []core.AttemptEvent // of finished attempts; only with KeepEvents
}

// tighterTimeout reports whether the request's total timeout is shorter than the total timeout of the global policy. If
// such a timeout ends an attempt, the failure is not charged to the proxy.
func (r *Request) tighterTimeout() bool {
	own, global := r.Policy.Timeout, r.GlobalPolicy.Timeout
	return own != nil && (global == nil || *own < *global)
}
