package access

import (
	"container/list"
	"net"
	"net/netip"
	"time"
)

const (
	// The delay after n failed logins of an address is n*n*delayUnit, but at most maxDelay. A person who mistypes a
	// password hardly notices it. A program that guesses passwords can soon try only one in 10 seconds.
	delayUnit = 2500 * time.Microsecond
	maxDelay  = 10 * time.Second
	// forgetAfter is the time after which the failed logins of a network no longer count, if there are no new ones.
	forgetAfter = 10 * time.Minute
	// maxDelayed is the maximum number of delayed responses of one address. While an address has so many delayed
	// responses, its other logins are refused without a check. Otherwise a client could try a password on each of many
	// connections.
	maxDelayed = 8
	// maxNetworks is the maximum number of networks whose failed logins are counted. If the table is full, a new
	// network takes the place of one that has no delayed response. Networks with few failed logins are replaced first,
	// so failed logins from many other addresses do not remove the count of an address that guesses passwords.
	maxNetworks = 4096
	// A network has few failed logins if it has less than fewFailures x level.weight of them.
	fewFailures = 8
	// maxDelayedOverflow is the maximum number of delayed responses of all addresses without room in the table,
	// together.
	maxDelayedOverflow = 64
)

// level describes the networks of one prefix length. Failed logins are counted for each network.
type level struct {
	bits       int // length of the prefix
	weight     int // so many failed logins of a network lead to the same delay as one failed login of a single address
	maxDelayed int // maximum number of delayed responses of the network; see maxDelayed
}

// The levels. Many clients may share one IPv4 address (NAT), and neighboring addresses usually belong to different
// clients. In IPv6, a /64 is the smallest block that a subscriber gets, a /48 the largest usual block of a subscriber
// (RFC 6177), and a /32 the smallest block of a provider. An attacker may own any of these blocks.
var (
	levels4 = []level{{32, 1, maxDelayed}}
	levels6 = []level{{64, 1, maxDelayed}, {48, 16, 8 * maxDelayed}, {32, 256, 64 * maxDelayed}}
	// overflowLevel is the level of those addresses for which the table has no room.
	overflowLevel = level{weight: 16, maxDelayed: maxDelayedOverflow}
)

// origin is the source of a login. Failures at the API are counted separately, so that a client of the gateway with a
// wrong password cannot lock out an operator of the API who has the same address.
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
	count            int           // number of failed logins
	lastFailure      time.Time     // time of the last failed login
	delayedResponses int           // number of responses that are being delayed
	idle             *list.Element // the element in table.idle[idleList()]; nil if delayedResponses > 0
}

// idleList returns the index of the network's list in failureTable.idle: 0 if the network has few failed logins,
// otherwise 1.
func (f *failures) idleList() int {
	if f.count < fewFailures*f.weight {
		return 0
	}
	return 1
}

func (f *failures) delay() time.Duration { return delayOf(f.count / f.weight) }

// delayOf returns the delay after count failed logins, at least delayUnit.
func delayOf(count int) time.Duration {
	count = max(count, 1)
	if count >= 100 {
		return maxDelay
	}
	return min(time.Duration(count*count)*delayUnit, maxDelay)
}

// failureTable holds the failed logins of networks. It is not safe for concurrent use.
type failureTable struct {
	networks    map[network]*failures
	maxNetworks int          // maximum length of networks
	idle        [2]list.List // networks without a delayed response, by idleList; the latest first
	overflow    [2]failures  // counts addresses for which networks has no room; index 0: at the gateway, 1: at the API
}

func newTable(most int) *failureTable {
	return &failureTable{networks: map[network]*failures{}, maxNetworks: most,
		overflow: [2]failures{{level: overflowLevel}, {level: overflowLevel, network: network{api: true}}}}
}

// isBlocked reports whether logins of an address are refused without a check. If so, it also returns the maximum time
// until logins of the address are checked again.
func (t *failureTable) isBlocked(from origin) (wait time.Duration, blocked bool) {
	for _, l := range from.levels() {
		f := t.networks[from.network(l)]
		if f == nil && t.isFull() {
			f = t.overflowFailures(from)
		}
		if f != nil && f.delayedResponses >= f.maxDelayed {
			wait, blocked = max(wait, f.delay()), true
		}
	}
	return wait, blocked
}

// isFull reports whether there is no room for another network, and no network can be removed.
func (t *failureTable) isFull() bool {
	return len(t.networks) >= t.maxNetworks && t.idle[0].Len()+t.idle[1].Len() == 0
}

func (t *failureTable) overflowFailures(from origin) *failures {
	if from.api {
		return &t.overflow[1]
	}
	return &t.overflow[0]
}

// recordFailure records a failed login in each network of the address, and returns the delay of the response. It also
// returns the networks in which the delayed response was counted: when the delay has ended, the caller must pass them
// to endDelay. If one of the networks already has its maximum of delayed responses, the returned list is nil, and the
// caller must not delay this response.
func (t *failureTable) recordFailure(now time.Time, from origin) (delayedNetworks []*failures, delay time.Duration) {
	blocked := false
	for _, l := range from.levels() {
		f := t.failuresOf(now, from, l)
		if len(delayedNetworks) > 0 && delayedNetworks[len(delayedNetworks)-1] == f {
			continue // in a full table, all levels have the same failures
		}
		if f.idle != nil {
			t.idle[f.idleList()].Remove(f.idle)
			f.idle = nil
		}
		if now.Sub(f.lastFailure) >= forgetAfter {
			f.count = 0
		}
		f.lastFailure = now
		f.count++
		delay = max(delay, f.delay())
		blocked = blocked || f.delayedResponses >= f.maxDelayed
		f.delayedResponses++
		delayedNetworks = append(delayedNetworks, f)
	}
	if blocked {
		t.endDelay(delayedNetworks)
		return nil, delay
	}
	return delayedNetworks, delay
}

// endDelay ends the delay of a response to a failed login. Its argument is a result of recordFailure for this login.
func (t *failureTable) endDelay(delayedNetworks []*failures) {
	for _, f := range delayedNetworks {
		if f.delayedResponses--; f.delayedResponses == 0 && f != t.overflowFailures(origin{api: f.api}) {
			f.idle = t.idle[f.idleList()].PushFront(f)
		}
	}
}

// failuresOf returns the failures of the network of an address at a level. If the table lacks the network, failuresOf
// adds it or, in a full table, returns overflowFailures.
func (t *failureTable) failuresOf(now time.Time, from origin, l level) *failures {
	n := from.network(l)
	f := t.networks[n]
	if f != nil {
		return f
	}
	t.removeIdle(now)
	if t.isFull() {
		return t.overflowFailures(from)
	}
	f = &failures{network: n, level: l}
	t.networks[n] = f
	return f
}

// removeIdle removes networks without a delayed response: first those whose last failed login is older than
// forgetAfter. If the table is still full, it then removes others until there is room for one more.
func (t *failureTable) removeIdle(now time.Time) {
	for i := range t.idle {
		for e := t.idle[i].Back(); e != nil; e = t.idle[i].Back() {
			f := e.Value.(*failures)
			if now.Sub(f.lastFailure) < forgetAfter && len(t.networks) < t.maxNetworks {
				break
			}
			t.idle[i].Remove(e)
			delete(t.networks, f.network)
		}
	}
}
