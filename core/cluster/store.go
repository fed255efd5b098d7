package cluster

import (
	"context"
	"errors"
	"time"
)

// Store is the memory that the nodes of a cluster share: records by key, each with a revision. One Exchange is one
// round trip, and its operations are atomic. [Memory] and redisstore.Store implement it.
type Store interface {
	// Exchange makes the operations of b in order, and then returns the records that have changed since b.Cursor.
	// If it returns an error, the operations may have been made or not; they can be repeated. Exchange returns soon
	// after ctx has ended.
	Exchange(ctx context.Context, b Batch) (Reply, error)
	// Listen calls f with the records of urgent operations (Op.Urgent) of all nodes, soon after the store has written
	// them. It returns when ctx has ended, or with an error. Records may be missing: an Exchange returns them, too.
	Listen(ctx context.Context, f func(News)) error
	Close()
}

// Kind is the kind of an operation.
type Kind uint8

// The kinds of operations.
const (
	// Put writes the record of an event, unless the store has the same record, or a record of a later event with the
	// same key. The event happened Op.Age ago or, if Op.At is set, at the time Op.At of the store's clock.
	Put Kind = iota + 1
	// Swap writes a record if the revision of the record with the same key is Rev. Rev is 0 if there must be no such
	// record.
	Swap
	// Acquire takes the lease of a key for the time TTL, unless another holder has the lease, or the revision of the
	// record with the same key is higher than Rev. Value is the holder. For the time TTL after the store has lost data,
	// Acquire grants no lease, because a node may still use a lost lease.
	Acquire
	// Free ends the lease of a key if Rev is its fencing number.
	Free
	// Settle ends the lease of a key and writes the record of the same key, if Rev is the fencing number of the lease
	// and the lease has not ended. The record gets the current time as the time of its event.
	Settle
	// Void ends the lease of a key, whoever holds it.
	Void
	// Share performs Op.Request on the shared limit with the key. The node's share of the limit ends after the time
	// TTL.
	Share
)

// Op is an operation. A record and a lease may have the same key.
type Op struct {
	Kind    Kind
	Key     string
	Value   string
	Rev     int64         // of Swap, Acquire, Free and Settle
	Age     time.Duration // of Put: time since the event
	At      time.Time     // of Put: time of the event, in place of Age; a time in the future stands for now
	TTL     time.Duration // time until the record or the lease ends, at least 1 ms; 0 for a record that does not end
	Request *ShareRequest // of Share
	Urgent  bool          // the nodes that listen get the record at once (Store.Listen)
}

// News are records that one exchange has written.
type News struct {
	Epoch   string // as Reply.Epoch
	Records []Record
}

// ErrNoNews reports that the store does not permit Listen.
var ErrNoNews = errors.New("the store does not permit to listen")

// Batch is the request of an exchange.
type Batch struct {
	Epoch  string // Reply.Epoch of the previous exchange; "" at the first exchange
	Cursor int64  // Reply.Cursor of the previous exchange; 0 for all records
	Limit  int    // maximum number of records in the reply, at least 1
	Ops    []Op
}

// Reply is the response of an exchange.
type Reply struct {
	// Epoch identifies the store's data. It changes if the store has lost data.
	Epoch  string
	Cursor int64     // for the next exchange
	More   bool      // more records have changed than Batch.Limit
	Now    time.Time // the time of the store's clock
	// Results has a number for each operation: the new revision of the record or the fencing number of the lease,
	// and 0 if the operation was not made. Revisions and fencing numbers increase with each operation of the store.
	Results      []int64
	ShareReplies []ShareReply // of the operations Share, in order; their Results are 1
	Changed      []Record     // in the order of their revisions
}

// Record is a record of the store.
type Record struct {
	Key   string
	Value string
	Rev   int64
	At    time.Time // of the event, by the store's clock
	Ends  time.Time // when the record ends, by the store's clock; zero if it does not end
}

// Ended reports whether the record has ended at the given time of the store's clock.
func (r *Record) Ended(now time.Time) bool { return !r.Ends.IsZero() && !now.Before(r.Ends) }
