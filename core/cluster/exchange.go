package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"
)

// pending is an operation of an exchange. The function done is called with the operation's result. If the exchange
// fails, the function failed is called instead. Both may be nil. They are called with Node.mu held.
type pending struct {
	op           Op
	done         func(result int64)
	failed       func()             // the exchange failed
	onShareReply func(r ShareReply) // called in place of done, for an operation of the kind Share
}

// Step makes one exchange. It returns the time until the next one, and whether the next one may begin earlier if the
// node has something to send.
func (n *Node) Step(ctx context.Context) (wait time.Duration, interruptible bool) {
	batch, ops := n.prepareExchange()
	sent := n.cfg.Now()
	ctx, cancel := context.WithTimeout(ctx, n.cfg.Timeout)
	defer cancel()
	reply, err := n.cfg.Store.Exchange(ctx, batch)
	if err == nil && len(reply.Results) != len(ops) {
		err = fmt.Errorf("the store gave %d results for %d operations", len(reply.Results), len(ops))
	}
	if err != nil {
		wait = n.recordFailure(err, ops)
		n.makeChanges()
		return wait, false
	}
	wait = n.applyReply(&reply, ops, sent)
	if n.makeChanges() {
		wait = 0
	}
	return wait, true
}

// prepareExchange returns the operations of the next exchange.
func (n *Node) prepareExchange() (Batch, []pending) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.cfg.Now()
	var ops []pending
	n.takeInbox(now)
	if now.Sub(n.lastBeat) >= n.beatTime() {
		ops = append(ops, n.heartbeatOp(now, false))
	}
	if !n.alone {
		ops = n.shareBreakers(ops, now)
		ops = n.shareSlowly(ops, now)
	}
	ops = n.prepareChanges(ops, now)
	ops = n.addShareRequests(ops, now)
	ops = n.events.send(ops, now)
	ops = n.shareMoves(ops, now)
	ops = n.offers.send(ops, n.storeTime(now))
	if len(ops) > 0 {
		n.sentAt = now
	}
	b := Batch{Epoch: n.epoch, Cursor: n.cursor, Limit: maxRecords, Ops: make([]Op, len(ops))}
	for i := range ops {
		b.Ops[i] = ops[i].op
	}
	return b, ops
}

// encode returns the JSON of v. The caller passes only values that can be encoded.
func encode(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic("a record that cannot be encoded: " + err.Error())
	}
	return string(data)
}

// recordFailure records that an exchange failed. From then on the node is alone. recordFailure returns the time until
// the next exchange.
func (n *Node) recordFailure(err error, ops []pending) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.counts.Failures++
	n.failed++
	n.endWaits()
	n.problem = err.Error()
	n.lastBeat = time.Time{}
	n.warnOfFailure(errors.Is(err, context.DeadlineExceeded))
	if !n.alone {
		n.alone, n.aloneAt = true, n.cfg.Now()
		n.counts.Alone++
		n.inbox.setAlone(true, n.aloneAt)
	}
	for _, p := range n.proxies {
		p.sentAt = time.Time{} // it is unknown whether the view has arrived
	}
	for i := range ops {
		if ops[i].failed != nil {
			ops[i].failed()
		}
	}
	wait := min(firstRetry<<min(n.failed-1, 6), longestRetry)
	return wait - time.Duration(rand.Float64()*float64(wait)/2)
}

// warnOfFailure logs the first of several failed exchanges in a row. If the error of this exchange is only a timeout,
// warnOfFailure also logs the first later exchange with another error, such as an error of a certificate.
func (n *Node) warnOfFailure(timeout bool) {
	message := "the cluster's store cannot be reached: this gateway goes on alone"
	switch {
	case !n.alone:
	case n.failed == 1:
		message = "the cluster's store cannot be reached yet: this gateway serves alone until then"
	case n.onlyTimeouts && !timeout:
		message = "the cluster's store still cannot be reached"
	default:
		return
	}
	n.onlyTimeouts = timeout
	n.cfg.Log.Warn(message, slog.String("error", n.problem))
}

// endWaits ends the waits of all calls of Reset. The caller holds mu.
func (n *Node) endWaits() {
	for _, c := range n.waiters {
		close(c)
	}
	n.waiters = nil
}

// applyReply evaluates the reply of an exchange that began at the time sent. It returns the time until the next
// exchange.
func (n *Node) applyReply(r *Reply, ops []pending, sent time.Time) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.cfg.Now()
	n.counts.Exchanges++
	n.counts.Sent += uint64(len(ops))
	n.counts.Received += uint64(len(r.Changed))
	previous := n.syncedAt
	lost := n.epoch != "" && r.Epoch != n.epoch
	if lost {
		n.expectOffers(now)
	}
	n.exchangeTime, n.localAt, n.syncedAt = now.Sub(sent), now, r.Now
	n.epoch, n.cursor, n.catching = r.Epoch, r.Cursor, r.More
	replies := 0
	for i := range ops {
		switch {
		case ops[i].onShareReply != nil:
			ops[i].onShareReply(r.ShareReplies[replies])
			replies++
		case ops[i].done != nil:
			ops[i].done(r.Results[i])
		}
	}
	n.syncDays(now) // must come after the replies, which are for the day of their requests
	n.sharing.reportGrowth()
	if n.events.count() == 0 {
		n.endWaits()
	}
	if lost {
		n.cfg.Log.Warn("the cluster's store has lost data: this gateway writes its own data again")
		n.offerLostRecords()
		n.sharing.reportAllAgain()
	}
	for i := range r.Changed {
		n.applyRecord(&r.Changed[i], previous)
	}
	if !r.More {
		n.fresh = false
	}
	if n.offers.count() == 0 && n.offered != n.epoch {
		if n.offered != "" {
			n.lastBeat = time.Time{} // the other nodes wait for the heartbeat with the new epoch (mayOffer)
		}
		n.offered = n.epoch
	}
	n.failed = 0
	if n.alone && !r.More {
		n.endAlone(now)
	}
	switch {
	case r.More:
		return 0
	case n.offers.count() > 0 || n.sharing.wantsMore:
		return minExchange
	}
	return n.pollTime()
}

// endAlone ends the time in which the node was alone. The caller holds mu.
func (n *Node) endAlone(now time.Time) {
	if n.hasReached {
		n.cfg.Log.Info("the cluster's store can be reached again",
			slog.Duration("after", now.Sub(n.aloneAt).Round(time.Millisecond)))
	} else {
		n.cfg.Log.Info("this gateway is a node of a cluster", slog.String("cluster", n.cfg.Name),
			slog.String("node", n.cfg.Node), slog.Int("nodes", len(n.liveNodes())))
	}
	n.alone, n.aloneAt, n.problem, n.hasReached, n.dropping = false, now, "", true, false
	n.inbox.setAlone(false, now)
	n.sharing.endEqualShares()
}

// storeTime converts a time of this node's clock to a time of the store's clock. The caller holds mu.
func (n *Node) storeTime(now time.Time) time.Time { return n.syncedAt.Add(now.Sub(n.localAt)) }

// clockSlack is the largest difference of the days' clock from the store's clock that is not corrected.
const clockSlack = time.Second

// syncDays makes the days of the gateway's limits begin by the store's clock. The caller holds mu.
func (n *Node) syncDays(now time.Time) {
	if !n.hasReached || n.days.Time(now).Sub(n.syncedAt).Abs() > clockSlack {
		n.days.Set(now, n.syncedAt)
		n.local.SetStoreTime(now, n.syncedAt)
	}
}

// pollTime returns the time between two exchanges of a node that has nothing to send. It grows with the number of
// nodes, so that the store serves a limited number of exchanges. The caller holds mu.
func (n *Node) pollTime() time.Duration {
	return min(max(time.Duration(len(n.nodes))*1500*time.Microsecond, idleExchange), longestIdle)
}

// applyRecord takes over a record of the store. The parameter previous is the store's time at the previous exchange.
// The caller holds mu.
func (n *Node) applyRecord(r *Record, previous time.Time) {
	n.offers.received(r)
	parts := strings.Split(r.Key, separator)
	switch {
	case parts[0] == nodeKey && len(parts) == 2:
		n.receiveNode(parts[1], r)
	case parts[0] == viewKey && len(parts) == 3:
		n.receiveView(parts[1], parts[2], r)
	case parts[0] == breakerKey && len(parts) == 2:
		n.receiveBreaker(parts[1], r, previous)
	case parts[0] == banKey && len(parts) == 3:
		n.receiveBan(parts[1], parts[2], r)
	case parts[0] == targetKey && len(parts) == 3:
		n.receiveTarget(parts[1], parts[2], r)
	case parts[0] == statsKey && len(parts) == 2:
		n.receiveStats(parts[1], r)
	case parts[0] == moveKey && len(parts) == 2:
		n.receiveMove(parts[1], r)
	case parts[0] == auditKey && len(parts) == 3:
		n.receiveAudit(parts[1], r)
	case parts[0] == changeKey && len(parts) > 1:
		n.receiveChange(r)
	}
}
