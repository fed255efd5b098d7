package executor

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ban"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/queue"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// ErrClientLeft and ErrShutdown are the causes (context.Cause) with which a caller cancels an
// exchange's context. Any cause other than ErrShutdown is treated as ErrClientLeft.
var (
	ErrClientLeft = errors.New("the client hung up")
	ErrShutdown   = verdict.ErrShutdown
)

// Selector chooses a proxy for an attempt and takes the permit of the proxy's breaker. It never blocks.
type Selector interface {
	// Select chooses a proxy for the query q. The scorer ranks the candidates. The errors are those of
	// selector.Selector.Select.
	Select(q *selector.Query, scorer core.Scorer, now time.Time) (upstream.Lease, error)
	// HasUntried reports whether there is an admissible proxy that is not in q.Tried.
	HasUntried(q *selector.Query, now time.Time) bool
	// CheckSelect returns an error if no proxy can be chosen for q.
	CheckSelect(q *selector.Query, now time.Time) error
	// NextTestTime returns the earliest time at which a proxy whose breaker is not closed may become admissible. It
	// returns false if there is no such proxy.
	NextTestTime() (time.Time, bool)
}

// Recorder receives each attempt event and each request event once.
type Recorder interface {
	CountAttempt(*core.AttemptEvent, *core.Slot) // with the slot of the attempt's proxy
	Request(*core.RequestEvent)
}

// Targets reports which targets are suspect. Times count from the pool's epoch (Tuning.Epoch).
type Targets interface {
	// IsSuspect reports whether attempts at the target have failed through several proxies, and none has succeeded.
	IsSuspect(target evidence.Target) bool
	// AdmitRetries reports whether a request to a suspect target may be retried. It returns true at most once a second
	// per target, or once in 5 s if attempts at the target time out.
	AdmitRetries(target evidence.Target, hangs bool, now time.Duration) bool
	// RecordRetriesFailed records the failure of a request for which AdmitRetries returned true at the time admittedAt.
	RecordRetriesFailed(target evidence.Target, admittedAt, endedAt time.Duration)
	// JustSucceededThroughOther reports whether an attempt through a proxy other than the given one has just succeeded
	// at the target.
	JustSucceededThroughOther(target evidence.Target, proxy uint64, now time.Duration) bool
}

// Tuning holds the settings that a reload may change. An exchange uses the settings that were in force when
// it began.
type Tuning struct {
	FirstScorer    core.Scorer                        // ranks candidates of first attempts
	RetryScorer    core.Scorer                        // ranks candidates of retries
	Backoff        func(strategy string) core.Backoff // returns nil for an unknown strategy
	Observe        func(*core.Observation)            // passes an observation on and does not keep it; may be nil
	Observes       func() bool                        // reports whether Observe needs observations; nil stands for yes
	Budget         *retry.Budget                      // nil for none
	Queue          queue.Config                       // settings of both queues
	Hedging        *retry.Hedging                     // nil if no request may be hedged, whatever its policy
	AttemptTimeout time.Duration                      // the attempt timeout
	Adaptive       bool                               // adaptive timeouts are on
	Epoch          time.Time                          // epoch of the pool; times of Targets and HostBans count from it
	Rules          *rules.Set                         // are applied to each attempt, before Judge; nil for none
	Judge          core.Judge                         // rules on responses; nil for none
	HasHostLimits  func(host string) bool             // reports whether proxies have limits for the host; may be nil
	HostBans       *ban.Table                         // the banned pairs; not nil if Judge or Rules is set
	ProxyBans      *ban.Table                         // the banned proxies; not nil if Rules is set
	Targets        Targets                            // nil if breaker.blame is "literal"
	// CheckTarget returns an error if no request may go to the target name:port; nil permits all.
	CheckTarget func(name string, port uint16) error
}

// Executor runs exchanges. It is safe for concurrent use.
type Executor struct {
	selector   Selector
	recorder   Recorder
	log        *slog.Logger
	now        func() time.Time
	rand       func() uint64
	tuning     atomic.Pointer[Tuning]
	places     *queue.Queue[placeNeeds]    // requests that wait for a place in flight at a proxy
	retries    *queue.Queue[*retry.Budget] // requests that wait for a retry of the retry budget
	limitTimer limitTimer                  // serves requests that wait because proxies are at a limit
	excerpts   sync.Pool                   // of *core.Excerpt
}

// New returns an executor. The functions now and rand are its only sources of time and randomness.
func New(s Selector, r Recorder, t Tuning, log *slog.Logger, now func() time.Time, rand func() uint64) *Executor {
	e := &Executor{selector: s, recorder: r, log: log, now: now, rand: rand}
	e.places, e.retries = queue.New[placeNeeds](now), queue.New[*retry.Budget](now)
	e.limitTimer.serveQueue = e.places.Serve
	e.SetTuning(t)
	return e
}

// SetTuning replaces the tuning. Exchanges that have begun keep the old tuning.
func (e *Executor) SetTuning(t Tuning) { e.tuning.Store(&t) }

// Tuning returns the tuning in force.
func (e *Executor) Tuning() Tuning { return *e.tuning.Load() }
