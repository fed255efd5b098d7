package cluster

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A shared limit holds for all nodes together. Each node has a share of it: the amount up to which the node may use the
// limit without asking. The shares are leases. If a node does not request in time, its share ends.

// ShareRequest is an operation on a shared limit: a node reports its use of the limit, keeps its share or gives some of
// it back, and asks for a larger share. All amounts are at least 0.
type ShareRequest struct {
	Holder string // identifies the node; without spaces
	// Daily is set if the limit is an amount for a day: an amount that a node has used is not available again on this
	// day. Otherwise the limit is a rate, or a number of attempts or requests in flight.
	Daily bool
	Limit int64
	Used  int64 // by the holder
	Share int64 // that the holder has now; at least Used if the limit is daily
	Want  int64 // the share that the holder wants
	// MaxWhileSettling is the largest share of the limit that the store gives to a node as long as other nodes may not
	// have reported their shares yet (settling).
	MaxWhileSettling int64
	// RecordTime is the time for which the record of the limit stays without a ShareRequest.
	RecordTime time.Duration
}

// ShareReply is the result of a ShareRequest.
type ShareReply struct {
	Share      int64 // that the holder has now; at least ShareRequest.Share
	FairShare  int64 // the fair share of the holder; if it is less than Share, other nodes need the difference
	TotalUsed  int64 // by all nodes
	HolderUsed int64 // used by this holder, including its earlier processes; at least ShareRequest.Used
}

// settling is the time after a loss of data, or after the first exchange, in which nodes may not have reported their
// shares to the store.
const settling = 4 * time.Second

// shareRecord is the store's record of one limit: an entry for each node.
type shareRecord []shareEntry

type shareEntry struct {
	holder            string
	dailyUsed         int64 // used, if the limit is daily; otherwise 0
	used, share, want int64
	ends              int64 // ms since the Unix epoch
}

// turnTime is the time after which nodes that want the same amount of a limit take turns. It matters for limits that
// are smaller than the number of nodes.
const turnTime = 4 * time.Second

// turnOrder returns a number that orders the holders that want the same amount of a limit. The order differs between
// limits, and changes every turnTime. exchange.lua has the same function. It computes with float64, which is exact
// because all results are below 2^48.
func turnOrder(ms int64, key, holder string) (h int64) {
	for _, c := range []byte(fmt.Sprintf("%s %s %d", holder, key, ms/turnTime.Milliseconds())) {
		h = (h*48271 + int64(c)) % (1<<31 - 1)
	}
	h %= 1<<24 - 3
	return h * h % (1<<31 - 1)
}

// apply performs the operation d on the limit with the given key. The node's share of the limit ends after the time
// ttl. The parameter settled is false as long as nodes may not have reported their shares yet (settling).
func (r shareRecord) apply(key string, d *ShareRequest, now time.Time, ttl time.Duration,
	settled bool) (shareRecord, ShareReply) {
	ms := now.UnixMilli()
	own := shareEntry{holder: d.Holder, used: d.Used, share: d.Share, want: d.Want, ends: ms + ttl.Milliseconds()}
	if d.Daily {
		own.dailyUsed = d.Used
	}
	out, result := shareRecord{}, ShareReply{}
	base, shares := int64(0), int64(0) // of the other nodes
	for _, e := range r {
		if e.holder == d.Holder {
			own.dailyUsed = max(own.dailyUsed, e.dailyUsed)
			continue
		}
		if e.ends <= ms {
			if e.dailyUsed == 0 {
				continue
			}
			e.used, e.share, e.want = e.dailyUsed, e.dailyUsed, e.dailyUsed
		}
		base, shares = base+e.dailyUsed, shares+e.share
		result.TotalUsed += e.used
		out = append(out, e)
	}
	if d.Daily {
		own.used = own.dailyUsed
	}
	own.share, own.want = max(own.share, own.dailyUsed), max(own.want, own.dailyUsed)
	out = append(out, own)
	slices.SortFunc(out, func(a, b shareEntry) int {
		return cmp.Or(cmp.Compare(a.want-a.dailyUsed, b.want-b.dailyUsed),
			cmp.Compare(turnOrder(ms, key, a.holder), turnOrder(ms, key, b.holder)), cmp.Compare(a.holder, b.holder))
	})
	// The unused rest of the limit is divided into equal shares. If a node wants less than an equal share, the other
	// nodes get the remainder.
	rest, target := max(d.Limit-base-own.dailyUsed, 0), own.dailyUsed
	for i, e := range out {
		share := min(e.want-e.dailyUsed, rest/int64(len(out)-i))
		if rest -= share; e.holder == d.Holder {
			target += share
		}
	}
	most := min(target, own.share+max(d.Limit-shares-own.share, 0))
	if !settled {
		most = min(most, d.MaxWhileSettling)
	}
	own.share = max(own.share, most)
	out = slices.DeleteFunc(out, func(e shareEntry) bool { return e.holder == d.Holder })
	if own.share > 0 || own.want > 0 || own.used > 0 {
		out = append(out, own)
	}
	result.Share, result.FairShare, result.HolderUsed = own.share, target, own.used
	result.TotalUsed += own.used
	return out, result
}

// maxAmount is the maximum of an amount in a ShareRequest: the script of a store computes with float64.
const maxAmount = 1 << 53

// limitAmounts limits the amounts to maxAmount.
func (d *ShareRequest) limitAmounts() {
	for _, amount := range []*int64{&d.Limit, &d.Used, &d.Share, &d.Want, &d.MaxWhileSettling} {
		*amount = min(max(*amount, 0), maxAmount)
	}
}

// Value returns d as the script of a store reads it: seven words.
func (d *ShareRequest) Value() string {
	daily := 0
	if d.Daily {
		daily = 1
	}
	return fmt.Sprintf("%s %d %d %d %d %d %d", d.Holder, daily, d.Limit, d.Used, d.Share, d.Want, d.MaxWhileSettling)
}

// ParseShareReply parses the text of a ShareReply: its fields, in order.
func ParseShareReply(text string) (d ShareReply, err error) {
	words := strings.Fields(text)
	fields := []*int64{&d.Share, &d.FairShare, &d.TotalUsed, &d.HolderUsed}
	if len(words) != len(fields) {
		return d, fmt.Errorf("the store's result %q has the form of another version", text)
	}
	for i, f := range fields {
		if *f, err = strconv.ParseInt(words[i], 10, 64); err != nil {
			return d, err
		}
	}
	return d, nil
}
