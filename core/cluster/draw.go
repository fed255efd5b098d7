package cluster

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A shared limit holds for all nodes together. Each node has a part of it: the amount up to which the node may use the
// limit without asking. The parts are leases. If a node does not draw in time, its part ends.

// Draw is an operation on a shared limit: a node reports its use of the limit, keeps its part or gives some of it back,
// and asks for a larger part. All amounts are at least 0.
type Draw struct {
	Holder string // identifies the node; without spaces
	// Daily is set if the limit is an amount for a day: what a node has used stays used. Otherwise the limit is a rate,
	// or a number of attempts or requests in flight.
	Daily bool
	Limit int64
	Used  int64 // by the holder
	Part  int64 // that the holder has now; at least Used if the limit is daily
	Want  int64 // the part that it wants
	// Young is the largest part of the limit that the store gives to a node as long as other nodes may not have
	// reported their parts yet (settling).
	Young int64
	// Keep is the time for which the record of the limit stays without a Draw.
	Keep time.Duration
}

// Drawn is the result of a Draw.
type Drawn struct {
	Part   int64 // that the holder has now; at least Draw.Part
	Target int64 // its fair part; if it is less than Part, others need the rest
	Used   int64 // by all nodes
	Own    int64 // used by this holder; more than Draw.Used if an earlier process of the holder has used more
}

// settling is the time after a loss of data, or after the first exchange, in which nodes may not have reported their
// parts to the store.
const settling = 4 * time.Second

// drawRecord is what the store has of one limit: an entry for each node.
type drawRecord []drawEntry

type drawEntry struct {
	holder           string
	base             int64 // used, if the limit is daily; otherwise 0
	used, part, want int64
	ends             int64 // ms since the Unix epoch
}

// turnTime is the time after which nodes that want the same amount of a limit take turns. It matters for limits that
// are smaller than the number of nodes.
const turnTime = 4 * time.Second

// turn returns a number that orders the holders that want the same amount of a limit. The order differs between limits,
// and changes every turnTime. exchange.lua has the same function, with float64: all results are below 2^48.
func turn(ms int64, key, holder string) (h int64) {
	for _, c := range []byte(fmt.Sprintf("%s %s %d", holder, key, ms/turnTime.Milliseconds())) {
		h = (h*48271 + int64(c)) % (1<<31 - 1)
	}
	h %= 1<<24 - 3
	return h * h % (1<<31 - 1)
}

// draw performs the operation d on the limit with the given key. The node's part of the limit ends after the time ttl.
// The parameter settled is false as long as nodes may not have reported their parts yet (settling).
func (r drawRecord) draw(key string, d *Draw, now time.Time, ttl time.Duration, settled bool) (drawRecord, Drawn) {
	ms := now.UnixMilli()
	own := drawEntry{holder: d.Holder, used: d.Used, part: d.Part, want: d.Want, ends: ms + ttl.Milliseconds()}
	if d.Daily {
		own.base = d.Used
	}
	out, result := drawRecord{}, Drawn{}
	base, parts := int64(0), int64(0) // of the other nodes
	for _, e := range r {
		if e.holder == d.Holder {
			own.base = max(own.base, e.base)
			continue
		}
		if e.ends <= ms {
			if e.base == 0 {
				continue
			}
			e.used, e.part, e.want = e.base, e.base, e.base
		}
		base, parts = base+e.base, parts+e.part
		result.Used += e.used
		out = append(out, e)
	}
	if d.Daily {
		own.used = own.base
	}
	own.part, own.want = max(own.part, own.base), max(own.want, own.base)
	out = append(out, own)
	slices.SortFunc(out, func(a, b drawEntry) int {
		return cmp.Or(cmp.Compare(a.want-a.base, b.want-b.base),
			cmp.Compare(turn(ms, key, a.holder), turn(ms, key, b.holder)), cmp.Compare(a.holder, b.holder))
	})
	// What is left of the limit is divided into equal shares, but no node gets more than it wants. What a node leaves
	// of its share goes to the other nodes.
	rest, target := max(d.Limit-base-own.base, 0), own.base
	for i, e := range out {
		share := min(e.want-e.base, rest/int64(len(out)-i))
		if rest -= share; e.holder == d.Holder {
			target += share
		}
	}
	most := min(target, own.part+max(d.Limit-parts-own.part, 0))
	if !settled {
		most = min(most, d.Young)
	}
	own.part = max(own.part, most)
	out = slices.DeleteFunc(out, func(e drawEntry) bool { return e.holder == d.Holder })
	if own.part > 0 || own.want > 0 || own.used > 0 {
		out = append(out, own)
	}
	result.Part, result.Target, result.Own = own.part, target, own.used
	result.Used += own.used
	return out, result
}

// maxAmount is the maximum of an amount in a Draw: the script of a store computes with float64.
const maxAmount = 1 << 53

// limitAmounts limits the amounts to maxAmount.
func (d *Draw) limitAmounts() {
	for _, amount := range []*int64{&d.Limit, &d.Used, &d.Part, &d.Want, &d.Young} {
		*amount = min(max(*amount, 0), maxAmount)
	}
}

// Value returns d as the script of a store reads it: seven words.
func (d *Draw) Value() string {
	daily := 0
	if d.Daily {
		daily = 1
	}
	return fmt.Sprintf("%s %d %d %d %d %d %d", d.Holder, daily, d.Limit, d.Used, d.Part, d.Want, d.Young)
}

// ParseDrawn parses the text of a Drawn: its fields, in order.
func ParseDrawn(text string) (d Drawn, err error) {
	words := strings.Fields(text)
	fields := []*int64{&d.Part, &d.Target, &d.Used, &d.Own}
	if len(words) != len(fields) {
		return d, fmt.Errorf("the store's result %q is not one of this version", text)
	}
	for i, f := range fields {
		if *f, err = strconv.ParseInt(words[i], 10, 64); err != nil {
			return d, err
		}
	}
	return d, nil
}
