package access

import (
	"context"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Listener is the listener at which a client sent a login.
type Listener uint8

// The listeners.
const (
	Gateway Listener = iota // HTTP, CONNECT included
	SOCKS5
	API

	NumListeners
)

var listenerNames = [NumListeners]string{Gateway: "gateway", SOCKS5: "socks5", API: "api"}

// String returns the name of the listener in metrics and in the log.
func (l Listener) String() string { return listenerNames[l] }

// maxHashWait is the longest time for which a login waits until its hash can be computed.
const maxHashWait = 5 * time.Second

// Result is the result of a login.
type Result uint8

// The results of a login.
const (
	Accepted Result = iota
	Refused         // the credentials were wrong, and the delay has passed
	Blocked         // refused without a check, because of failed logins or of logins that wait for a hash
)

// Login describes a login that a client sends.
type Login struct {
	Listener Listener
	From     net.Addr // the client's address
	User     string   // the user name that the client sent; "" if it sent no name
}

// Guard counts and logs failed logins, and delays their responses. All listeners share one Guard. For the delay, the
// failed logins of an address at the HTTP and SOCKS5 listeners are counted together, and those at the API separately. A
// Guard is safe for concurrent use.
type Guard struct {
	now     func() time.Time
	log     *slog.Logger
	hashing chan struct{} // holds a value for each hash that is being computed

	failed [NumListeners]atomic.Uint64

	mu           sync.Mutex
	failureTable *failureTable // guarded by mu
}

// NewGuard returns a guard that takes the times of failed logins from the function now. Its delays use timers of
// package time.
func NewGuard(now func() time.Time, log *slog.Logger) *Guard {
	return &Guard{
		now: now, log: log, hashing: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		failureTable: newTable(maxNetworks),
	}
}

// Failed returns the number of failed logins at a listener.
func (g *Guard) Failed(l Listener) uint64 { return g.failed[l].Load() }

// Check checks the credentials of a login.
type Check struct {
	// WithoutHash checks the credentials without computing a hash. If this is not possible, the second result is false.
	// WithoutHash must return soon, because all logins wait for it.
	WithoutHash func() (ok, decided bool)
	// WithHash checks the credentials with the hash; nil if WithoutHash always decides.
	WithHash func() (ok bool)
}

// CheckLogin checks a login. It may wait until a hash can be computed. If the login fails, CheckLogin returns when the
// delay has passed or ctx ends. Even if ctx ends first, the response counts as delayed until the delay has passed. If
// the result is Blocked, CheckLogin also returns the time after which another login may be checked.
func (g *Guard) CheckLogin(ctx context.Context, l Login, check Check) (result Result, retryAfter time.Duration) {
	from := originOf(l.From, l.Listener == API)
	result, delayedNetworks, delay := g.checkWithoutHash(from, check.WithoutHash)
	if result == hashRequired {
		result, delayedNetworks, delay = g.checkWithHash(ctx, from, check.WithHash)
	}
	switch {
	case result == Accepted:
		return Accepted, 0
	case result == Blocked:
		g.count(l, "login refused without a check")
		return Blocked, max(delay, time.Second)
	}
	g.count(l, "login failed")
	if delayedNetworks == nil {
		return Blocked, max(delay, time.Second)
	}
	delayEnded := make(chan struct{})
	time.AfterFunc(delay, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.failureTable.endDelay(delayedNetworks)
		close(delayEnded)
	})
	select {
	case <-delayEnded:
	case <-ctx.Done():
	}
	return Refused, 0
}

// hashRequired is the result of checkWithoutHash if the hash must be computed.
const hashRequired = Blocked + 1

// checkWithoutHash calls Check.WithoutHash, and records a failed login (see recordFailure). It holds mu during the
// call, so that a client cannot have many passwords checked at the same time.
func (g *Guard) checkWithoutHash(
	from origin, check func() (ok, decided bool),
) (result Result, delayedNetworks []*failures, delay time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if delay, blocked := g.failureTable.isBlocked(from); blocked {
		return Blocked, nil, delay
	}
	switch ok, decided := check(); {
	case !decided:
		return hashRequired, nil, 0
	case ok:
		return Accepted, nil, 0
	}
	delayedNetworks, delay = g.failureTable.recordFailure(g.now(), from)
	return Refused, delayedNetworks, delay
}

// checkWithHash waits until another hash may be computed, calls Check.WithHash, and records a failed login (see
// recordFailure). It returns Blocked if it has waited for maxHashWait, if ctx ends, or if the address was blocked
// during the wait.
func (g *Guard) checkWithHash(
	ctx context.Context, from origin, check func() bool,
) (result Result, delayedNetworks []*failures, delay time.Duration) {
	timer := time.NewTimer(maxHashWait)
	defer timer.Stop()
	select {
	case g.hashing <- struct{}{}:
	case <-timer.C:
		return Blocked, nil, 0
	case <-ctx.Done():
		return Blocked, nil, 0
	}
	defer func() { <-g.hashing }()
	if ctx.Err() != nil { // select may have chosen hashing although ctx has ended
		return Blocked, nil, 0
	}
	g.mu.Lock()
	delay, blocked := g.failureTable.isBlocked(from)
	g.mu.Unlock()
	if blocked {
		return Blocked, nil, delay
	}
	if check() {
		return Accepted, nil, 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delayedNetworks, delay = g.failureTable.recordFailure(g.now(), from)
	return Refused, delayedNetworks, delay
}

// maxLoggedName is the maximum number of bytes of a user name in the log.
const maxLoggedName = 64

func (g *Guard) count(l Login, message string) {
	g.failed[l.Listener].Add(1)
	name := l.User
	if len(name) > maxLoggedName {
		name = name[:maxLoggedName] + "..."
	}
	attrs := []slog.Attr{slog.String("listener", l.Listener.String()), slog.String("client", address(l.From))}
	if name != "" {
		attrs = append(attrs, slog.String("user", strings.ToValidUTF8(name, "?")))
	}
	g.log.LogAttrs(context.Background(), slog.LevelWarn, message, attrs...)
}

// address returns the text of an address without its port.
func address(a net.Addr) string {
	if a == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}
