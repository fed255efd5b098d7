package access

import (
	"container/list"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Listener is the listener at which a login was tried.
type Listener uint8

// The listeners.
const (
	Gateway Listener = iota // HTTP, CONNECT included
	SOCKS5
	API

	NumListeners
)

var listenerNames = [NumListeners]string{Gateway: "gateway", SOCKS5: "socks5", API: "api"}

// String returns the name in metrics and log.
func (l Listener) String() string { return listenerNames[l] }

const (
	// delayUnit is the delay after the first failed login of an address. The delay after n failed logins is n*n
	// times as long, up to maxDelay. The delay is too short to disturb a person who mistypes a password, but a
	// program that guesses soon has one try in 10 seconds.
	delayUnit = 2500 * time.Microsecond
	maxDelay  = 10 * time.Second
	// forgetAfter is the time without a failed login after which the failed logins of an address are forgotten.
	forgetAfter = 10 * time.Minute
	// maxDelayed is the number of failed logins of one address whose responses are delayed at the same time. At this
	// number, further logins of the address are refused without a check. Otherwise a client could try as many
	// passwords at a time as it has connections.
	maxDelayed = 8
	// maxAddresses is the maximum number of addresses whose failed logins are kept. Beyond it, the address
	// whose last failure is the oldest is removed.
	maxAddresses = 4096
	// maxHashWait is the longest time for which a login waits until its hash can be computed.
	maxHashWait = 5 * time.Second
)

// Result is the result of a login.
type Result uint8

// The results of a login.
const (
	Accepted Result = iota
	Refused         // the credentials were wrong, and the delay has passed
	Blocked         // not checked: this address has too many failed logins, or too many hashes wait to be computed
)

// Login describes a login that a client tries.
type Login struct {
	Listener Listener
	From     net.Addr // the client's address
	User     string   // the name that the client sent; "" if there is none
}

// Guard counts and logs failed logins, and delays the responses to them. All listeners share one Guard, so that an
// address has one delay. It is safe for concurrent use.
type Guard struct {
	now     func() time.Time
	log     *slog.Logger
	hashing chan struct{} // holds a value for each hash that is being computed

	failed [NumListeners]atomic.Uint64

	mu        sync.Mutex
	addresses map[origin]*list.Element // guarded by mu; the values are *failures
	recent    list.List                // guarded by mu; of *failures, the last failure first
}

// failures are the failed logins of one address.
type failures struct {
	from    origin
	count   int
	last    time.Time
	delayed int // responses that are being delayed
}

// NewGuard returns a guard without failures. now is the clock. The delays themselves use timers of
// package time.
func NewGuard(now func() time.Time, log *slog.Logger) *Guard {
	return &Guard{
		now: now, log: log, hashing: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		addresses: map[origin]*list.Element{},
	}
}

// Failed returns the number of failed logins at a listener.
func (g *Guard) Failed(l Listener) uint64 { return g.failed[l].Load() }

// Check checks the credentials of a login. Known does so without computing a hash; if that is impossible, it
// returns decided = false, and Slow checks the credentials with the hash. Known must return soon, because
// logins of all addresses wait for it.
type Check struct {
	Known func() (ok, decided bool)
	Slow  func() (ok bool) // nil if Known always decides
}

// Do checks a login. It may wait until a hash can be computed. If the login fails, it returns when the
// delay has passed or ctx ends. If the result is Blocked, retryAfter is the time after which another
// login may be checked.
func (g *Guard) Do(ctx context.Context, l Login, check Check) (result Result, retryAfter time.Duration) {
	from := origin{prefixOf(l.From), l.Listener == API}
	result, f, delay := g.known(from, check.Known)
	if result == unknown {
		result, f, delay = g.slow(ctx, from, check.Slow)
	}
	switch {
	case result == Accepted:
		return Accepted, 0
	case result == Blocked:
		g.count(l, "login refused without a check")
		return Blocked, max(delay, time.Second)
	}
	g.count(l, "login failed")
	if f == nil {
		return Blocked, max(delay, time.Second)
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	f.delayed--
	return Refused, 0
}

// unknown is the result of a check that requires a hash.
const unknown = Blocked + 1

// known runs check.Known. It holds mu meanwhile and while it records a failure, so that a client cannot
// have many passwords checked at the same time. After a failed check, f and delay are the results of
// fail.
func (g *Guard) known(
	from origin, check func() (ok, decided bool),
) (result Result, f *failures, delay time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if delay, blocked := g.blocked(from); blocked {
		return Blocked, nil, delay
	}
	switch ok, decided := check(); {
	case !decided:
		return unknown, nil, 0
	case ok:
		return Accepted, nil, 0
	}
	f, delay = g.fail(from)
	return Refused, f, delay
}

// slow runs check.Slow when hashing has a free place. It returns Blocked if it has waited for maxHashWait, if
// ctx ends, or if the address has been blocked meanwhile. After a failed check, f and delay are the results
// of fail.
func (g *Guard) slow(
	ctx context.Context, from origin, check func() bool,
) (result Result, f *failures, delay time.Duration) {
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
	delay, blocked := g.blocked(from)
	g.mu.Unlock()
	if blocked {
		return Blocked, nil, delay
	}
	if check() {
		return Accepted, nil, 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	f, delay = g.fail(from)
	return Refused, f, delay
}

// blocked reports whether logins of an address are refused without a check. wait is the longest time until
// they are checked again. The caller holds mu.
func (g *Guard) blocked(from origin) (wait time.Duration, blocked bool) {
	e := g.addresses[from]
	if e == nil {
		return 0, false
	}
	f := e.Value.(*failures)
	return delayOf(f.count), f.delayed >= maxDelayed
}

// fail records a failed login and returns the delay of its response. After the delay, the caller
// subtracts 1 from f.delayed. If maxDelayed responses are being delayed already, f is nil, and the
// response is not delayed. The caller holds mu.
func (g *Guard) fail(from origin) (f *failures, delay time.Duration) {
	now := g.now()
	e := g.addresses[from]
	if e == nil {
		g.makeRoom(now)
		e = g.recent.PushFront(&failures{from: from})
		g.addresses[from] = e
	}
	g.recent.MoveToFront(e)
	f = e.Value.(*failures)
	if now.Sub(f.last) >= forgetAfter {
		f.count = 0
	}
	f.last = now
	f.count++
	if f.delayed >= maxDelayed {
		return nil, delayOf(f.count)
	}
	f.delayed++
	return f, delayOf(f.count)
}

// makeRoom removes the addresses without a failed login for forgetAfter and, if maxAddresses remain, the
// oldest one. The caller holds mu.
func (g *Guard) makeRoom(now time.Time) {
	for e := g.recent.Back(); e != nil; e = g.recent.Back() {
		f := e.Value.(*failures)
		if now.Sub(f.last) < forgetAfter && len(g.addresses) < maxAddresses {
			return
		}
		g.recent.Remove(e)
		delete(g.addresses, f.from)
	}
}

// delayOf returns the delay after count failed logins.
func delayOf(count int) time.Duration {
	if count >= 100 {
		return maxDelay
	}
	return min(time.Duration(count*count)*delayUnit, maxDelay)
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

// origin is the source of logins for which failures are counted. Failures at the API are counted separately, so
// that a client of the gateway with a wrong password does not lock out an operator with the same address.
type origin struct {
	address netip.Prefix
	api     bool
}

// prefixOf returns the prefix of the addresses that count as one: a single IPv4 address, or an IPv6 /64, which is
// the smallest block that a subscriber gets (RFC 6177).
func prefixOf(a net.Addr) netip.Prefix {
	ip, err := netip.ParseAddr(address(a))
	if err != nil {
		return netip.Prefix{}
	}
	ip = ip.WithZone("").Unmap()
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	prefix, _ := ip.Prefix(bits)
	return prefix
}
