package access

import (
	"container/list"
	"net"
	"net/netip"
	"time"
)

const (
	// delayUnit is the delay after the first failed login of an address. The delay after n failed logins is n*n
	// times as long, up to maxDelay. The delay is too short to disturb a person who mistypes a password, but a
	// program that guesses soon has one try in 10 seconds.
	delayUnit = 2500 * time.Microsecond
	maxDelay  = 10 * time.Second
	// forgetAfter is the time without a failed login after which the failed logins of a network are forgotten.
	forgetAfter = 10 * time.Minute
	// maxDelayed is the number of failed logins of one address whose responses are delayed at the same time. At this
	// number, further logins of the address are refused without a check. Otherwise a client could try as many
	// passwords at a time as it has connections.
	maxDelayed = 8
	// maxNetworks is the maximum number of networks whose failed logins are kept. Beyond it, a network without a
	// running delay is removed: if possible, one with few failed logins, and among these the one whose last delay
	// ended first. In this way, failed logins from many addresses do not remove the count of an address that guesses.
	maxNetworks = 4096
	// few is the number of failed logins, divided by the weight of the level, below which a network has
	// few failed logins.
	few = 8
	// maxDelayedTogether is maxDelayed for the level together.
	maxDelayedTogether = 64
)

// level is a length of prefixes at which failed logins are counted.
type level struct {
	bits   int
	weight int // number of failed logins of the network that lead to the same delay as one of an address
	most   int // maximum number of delayed responses of the network; see maxDelayed
}

// The levels. Many clients may share one IPv4 address (NAT), and neighbouring addresses usually belong to different
// clients. In IPv6 a /64 is the smallest block that a subscriber gets, a /48 the largest usual one (RFC 6177), and
// a /32 the smallest block of a provider. An attacker may own any of these.
var (
	levels4 = []level{{32, 1, maxDelayed}}
	levels6 = []level{{64, 1, maxDelayed}, {48, 16, 8 * maxDelayed}, {32, 256, 64 * maxDelayed}}
	// together is a single level for all addresses whose logins fail while every network in the
	// table has a running delay.
	together = level{weight: 16, most: maxDelayedTogether}
)

// origin is the source of a login. Failures at the API are counted separately, so that a client of the gateway with a
// wrong password does not lock out an operator with the same address.
type origin struct {
	address netip.Addr // the zero Addr if it is unknown
	api     bool
}

func originOf(a net.Addr, api bool) origin {
	ip, err := netip.ParseAddr(address(a))
	if err != nil {
		return origin{api: api}
	}
	return origin{ip.WithZone("").Unmap(), api}
}

func (o origin) levels() []level {
	if o.address.Is6() {
		return levels6
	}
	return levels4
}

// network is a prefix whose failed logins are counted.
type network struct {
	prefix netip.Prefix
	api    bool
}

func (o origin) network(l level) network {
	prefix, _ := o.address.Prefix(l.bits) // the zero Prefix if the address is unknown
	return network{prefix, o.api}
}

// failures are the failed logins of one network.
type failures struct {
	network
	level
	count   int
	last    time.Time
	delayed int           // number of responses that are being delayed
	idle    *list.Element // in the list idleList of the table; nil if delayed > 0
}

// idleList returns the index of the list in table.idle for a network.
func (f *failures) idleList() int {
	if f.count < few*f.weight {
		return 0
	}
	return 1
}

// delay returns the delay of the next response.
func (f *failures) delay() time.Duration { return delayOf(f.count / f.weight) }

// delayOf returns the delay after count failed logins, at least delayUnit.
func delayOf(count int) time.Duration {
	count = max(count, 1)
	if count >= 100 {
		return maxDelay
	}
	return min(time.Duration(count*count)*delayUnit, maxDelay)
}

// table holds the failed logins of all networks. It is not safe for concurrent use.
type table struct {
	networks map[network]*failures
	most     int          // maximum length of networks
	idle     [2]list.List // the *failures without a running delay, latest first; index 0: few failed logins, 1: more
	together [2]failures  // for addresses without a place in networks: at the gateway, at the API
}

func newTable(most int) *table {
	return &table{networks: map[network]*failures{}, most: most,
		together: [2]failures{{level: together}, {level: together, network: network{api: true}}}}
}

// blocked reports whether logins of an address are refused without a check. wait is the longest time until they are
// checked again.
func (t *table) blocked(from origin) (wait time.Duration, blocked bool) {
	for _, l := range from.levels() {
		f := t.networks[from.network(l)]
		if f == nil && t.full() {
			f = t.others(from)
		}
		if f != nil && f.delayed >= f.most {
			wait, blocked = max(wait, f.delay()), true
		}
	}
	return wait, blocked
}

// full reports whether the table has no room for the failed logins of another network.
func (t *table) full() bool { return len(t.networks) >= t.most && t.idle[0].Len()+t.idle[1].Len() == 0 }

func (t *table) others(from origin) *failures {
	if from.api {
		return &t.together[1]
	}
	return &t.together[0]
}

// fail records a failed login. The caller calls release with held when the delay has ended. If held is empty, the
// networks already have their maximum number of delayed responses, and the response is not delayed.
func (t *table) fail(now time.Time, from origin) (held []*failures, delay time.Duration) {
	blocked := false
	for _, l := range from.levels() {
		f := t.get(now, from, l)
		if len(held) > 0 && held[len(held)-1] == f {
			continue // several levels have no place in the table
		}
		if f.idle != nil {
			t.idle[f.idleList()].Remove(f.idle)
			f.idle = nil
		}
		if now.Sub(f.last) >= forgetAfter {
			f.count = 0
		}
		f.last = now
		f.count++
		delay = max(delay, f.delay())
		blocked = blocked || f.delayed >= f.most
		f.delayed++
		held = append(held, f)
	}
	if blocked {
		t.release(held)
		return nil, delay
	}
	return held, delay
}

// release ends the delay for which fail has returned held.
func (t *table) release(held []*failures) {
	for _, f := range held {
		if f.delayed--; f.delayed == 0 && f != t.others(origin{api: f.api}) {
			f.idle = t.idle[f.idleList()].PushFront(f)
		}
	}
}

// get returns the failures of an address at a level. It makes room for them if necessary.
func (t *table) get(now time.Time, from origin, l level) *failures {
	n := from.network(l)
	f := t.networks[n]
	if f != nil {
		return f
	}
	t.removeIdle(now)
	if t.full() {
		return t.others(from)
	}
	f = &failures{network: n, level: l}
	t.networks[n] = f
	return f
}

// removeIdle removes the networks whose last failed login is at least forgetAfter ago. If the table is still full,
// it also removes another idle network, to make room.
func (t *table) removeIdle(now time.Time) {
	for i := range t.idle {
		for e := t.idle[i].Back(); e != nil; e = t.idle[i].Back() {
			f := e.Value.(*failures)
			if now.Sub(f.last) < forgetAfter && len(t.networks) < t.most {
				break
			}
			t.idle[i].Remove(e)
			delete(t.networks, f.network)
		}
	}
}
