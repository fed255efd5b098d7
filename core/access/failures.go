package access

import (
	"container/list"
	"net"
	"net/netip"
	"time"
)

const (
	// delayUnit is the delay after the first failed login of an address. The delay after n failed logins is n*n times
	// delayUnit, but at most maxDelay. These delays are too short to disturb a person who mistypes a password. A
	// program that guesses passwords can soon try only one password in 10 seconds.
	delayUnit = 2500 * time.Microsecond
	maxDelay  = 10 * time.Second
	// forgetAfter is the time without a failed login after which the failed logins of a network are forgotten.
	forgetAfter = 10 * time.Minute
	// maxDelayed is the number of failed logins of one address whose responses are delayed at the same time. At this
	// number, all other logins of the address are refused without a check. Otherwise a client could try as many
	// passwords at the same time as it has connections.
	maxDelayed = 8
	// maxNetworks is the maximum number of networks whose failed logins are kept. To add another network, the table
	// removes a network without a running delay: if possible, a network with few failed logins. Of several such
	// networks, it removes the one whose last delay ended longest ago. As a result, failed logins from many addresses
	// do not remove the count of an address that guesses passwords.
	maxNetworks = 4096
	// few defines "few failed logins": a network has few failed logins if their number is less than few times the
	// weight of the network's level.
	few = 8
	// maxDelayedTogether is the maximum number of delayed responses of all addresses that share one level, the
	// variable together (declared below).
	maxDelayedTogether = 64
)

// level describes the networks of one prefix length. Failed logins are counted for each network.
type level struct {
	bits   int // length of the prefix
	weight int // this number of failed logins of a network leads to the same delay as one of a single address
	most   int // maximum number of delayed responses of the network; see maxDelayed
}

// The levels. Many clients may share one IPv4 address (NAT), and neighboring addresses usually belong to different
// clients. In IPv6, a /64 is the smallest block that a subscriber gets, a /48 the largest usual block of a subscriber
// (RFC 6177), and a /32 the smallest block of a provider. An attacker may own any of these blocks.
var (
	levels4 = []level{{32, 1, maxDelayed}}
	levels6 = []level{{64, 1, maxDelayed}, {48, 16, 8 * maxDelayed}, {32, 256, 64 * maxDelayed}}
	// together is a single level for all addresses whose logins fail while every network in the
	// table has a running delay.
	together = level{weight: 16, most: maxDelayedTogether}
)

// origin is the source of a login. Failures at the API are counted separately. Otherwise a client of the gateway with
// a wrong password could lock out an operator of the API who has the same address.
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
	count   int           // number of failed logins
	last    time.Time     // time of the last failed login
	delayed int           // number of responses that are being delayed
	idle    *list.Element // the element in table.idle[idleList()]; nil if delayed > 0
}

// idleList returns the index in table.idle of the list that the network belongs to: 0 if it has few failed logins,
// otherwise 1.
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
	idle     [2]list.List // the *failures without a running delay, latest first; the index is that of idleList
	together [2]failures  // for addresses for which networks has no room; index 0: at the gateway, 1: at the API
}

func newTable(most int) *table {
	return &table{networks: map[network]*failures{}, most: most,
		together: [2]failures{{level: together}, {level: together, network: network{api: true}}}}
}

// blocked reports whether logins of an address are refused without a check. The result wait is the longest
// time until logins of this address are checked again.
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

// A table is full if it has no room for the failed logins of another network.
func (t *table) full() bool { return len(t.networks) >= t.most && t.idle[0].Len()+t.idle[1].Len() == 0 }

func (t *table) others(from origin) *failures {
	if from.api {
		return &t.together[1]
	}
	return &t.together[0]
}

// fail records a failed login in each network of the address. It returns these networks (held), and the delay of the
// response. When the delay has ended, the caller must pass held to release. If one of the networks already has its
// maximum number of delayed responses, held is nil and the caller must not delay the response.
func (t *table) fail(now time.Time, from origin) (held []*failures, delay time.Duration) {
	blocked := false
	for _, l := range from.levels() {
		f := t.get(now, from, l)
		if len(held) > 0 && held[len(held)-1] == f {
			continue // without room in the table, get returns the same failures for several levels
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

// release ends the delay of a response. The parameter held is the result of fail for this response.
func (t *table) release(held []*failures) {
	for _, f := range held {
		if f.delayed--; f.delayed == 0 && f != t.others(origin{api: f.api}) {
			f.idle = t.idle[f.idleList()].PushFront(f)
		}
	}
}

// get returns the failures of an address at a level. If the table has no failures of this network, get adds them, and
// removes another network if necessary. If the table is full of networks with running delays, get returns t.others.
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
