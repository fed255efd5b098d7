//go:build unix

package redisstore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/cluster"
	"github.com/whirlpool-proxy/whirlpool/core/cluster/redisstore"
)

const leaseTTL = 300 * time.Millisecond

// request is an operation of a node at a key of the store. A request of kind 0 reads the record.
type request struct {
	kind     cluster.Kind
	node     string
	key      string
	expected string // of Swap: the present value of the record; "" for no record
	value    string // of Swap and Settle: the new value of the record
	fence    int64  // of Free and Settle
}

// response is the store's response to a request.
type response struct {
	lost  bool   // no response arrived, so the operation may have been made or not
	made  bool   // the operation was made
	value string // of a read
	fence int64  // of Acquire
	now   int64  // the store's clock in ms
}

// keyState is the state of a key: a record, and a lease that one node has at a time.
type keyState struct {
	value  string // of the record; "" for no record
	holder string // of the lease; "" for no lease
	fence  int64  // of the lease; 0 if it is unknown, because the response to Acquire was lost
	ends   int64  // end of the lease by the store's clock in ms; 0 if it is unknown
}

// after returns the states that may follow s if a request q gets the response r. There is none if r is wrong.
func (s keyState) after(q request, r response) []keyState {
	owns := s.holder == q.node && (s.fence == q.fence || s.fence == 0)
	mayBeHeld := s.holder != "" && (s.ends == 0 || r.now < s.ends)
	mayBeFree := s.holder == "" || s.ends == 0 || r.now >= s.ends
	made, notMade := s, s
	var mayBeMade, mayNotBeMade bool
	switch q.kind {
	case 0:
		mayBeMade, mayNotBeMade = r.value == s.value, r.lost
	case cluster.Swap:
		made.value = q.value
		mayBeMade, mayNotBeMade = s.value == q.expected, s.value != q.expected
	case cluster.Acquire:
		made.holder, made.fence, made.ends = q.node, r.fence, 0
		if r.fence > 0 {
			made.ends = r.now + leaseTTL.Milliseconds()
		}
		mayBeMade, mayNotBeMade = mayBeFree || s.holder == q.node, mayBeHeld && s.holder != q.node
	case cluster.Free, cluster.Settle:
		if q.kind == cluster.Settle {
			made.value = q.value
		}
		made.holder, made.fence, made.ends = "", 0, 0
		mayBeMade, mayNotBeMade = owns && mayBeHeld, mayBeFree || !owns || s.fence == 0
	}
	switch {
	case r.lost && q.kind == cluster.Acquire, r.lost && mayBeMade:
		return []keyState{made, notMade}
	case r.lost, !r.made && mayNotBeMade:
		return []keyState{notMade}
	case r.made && mayBeMade:
		return []keyState{made}
	}
	return nil
}

// keyModel describes the correct histories of the store. Keys are independent of each other.
var keyModel = (&porcupine.NondeterministicModel{
	Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
		index := map[string]int{}
		for _, o := range history {
			key := o.Input.(request).key
			i, known := index[key]
			if !known {
				i = len(parts)
				index[key], parts = i, append(parts, nil)
			}
			parts[i] = append(parts[i], o)
		}
		return parts
	},
	Init: func() []any { return []any{keyState{}} },
	Step: func(state, input, output any) (next []any) {
		for _, s := range state.(keyState).after(input.(request), output.(response)) {
			next = append(next, s)
		}
		return next
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
	DescribeState:     func(state any) string { return fmt.Sprintf("%+v", state) },
}).ToModel()

// history records the operations of all nodes.
type history struct {
	begin time.Time
	mu    sync.Mutex
	list  []porcupine.Operation
}

// client is a node that makes one operation after another.
type client struct {
	*history
	id    int
	name  string
	store *redisstore.Store
	revs  map[string]cluster.Record // the records that the node has read last
}

// do makes the operation of q and records it. The result rev is the result of the operation.
func (c *client) do(q request) (r response, rev int64) {
	q.node = c.name
	b := cluster.Batch{Limit: 100}
	if q.kind != 0 {
		op := cluster.Op{Kind: q.kind, Key: q.key, Value: q.value, Rev: q.fence}
		switch q.kind {
		case cluster.Swap:
			op.Rev = c.revs[q.key].Rev
		case cluster.Acquire:
			op.Value, op.Rev, op.TTL = c.name, 1<<52, leaseTTL
		}
		b.Ops = []cluster.Op{op}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	call := time.Since(c.begin)
	reply, err := c.store.Exchange(ctx, b)
	end := time.Since(c.begin)
	switch {
	case err != nil: // perhaps the operation is made later
		r, end = response{lost: true}, time.Hour
	case q.kind == 0:
		r = response{made: true, now: reply.Now.UnixMilli()}
		delete(c.revs, q.key)
		for _, record := range reply.Changed {
			if record.Key == q.key {
				c.revs[q.key], r.value = record, record.Value
			}
		}
	default:
		rev = reply.Results[0]
		r = response{made: rev > 0, now: reply.Now.UnixMilli()}
		if q.kind == cluster.Acquire {
			r.fence = rev
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, porcupine.Operation{
		ClientId: c.id, Input: q, Output: r, Call: int64(call), Return: int64(end),
	})
	return r, rev
}

// run makes operations until stop is closed.
func (c *client) run(rng *rand.Rand, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(rng.IntN(30)) * time.Millisecond):
		}
		key := string("abc"[rng.IntN(3)])
		value := fmt.Sprintf("%s-%d", c.name, i)
		if rng.IntN(2) == 0 {
			if r, _ := c.do(request{key: key}); !r.lost {
				c.do(request{kind: cluster.Swap, key: key, expected: r.value, value: value})
			}
			continue
		}
		r, fence := c.do(request{kind: cluster.Acquire, key: key})
		if !r.made {
			continue
		}
		time.Sleep(time.Duration(rng.IntN(400)) * time.Millisecond) // the probe; some take longer than the lease
		kind := []cluster.Kind{cluster.Free, cluster.Settle}[rng.IntN(2)]
		c.do(request{kind: kind, key: key, value: value, fence: fence})
	}
}

// Five nodes take leases and change records. Meanwhile the store is stopped for longer than a lease, and connections
// are cut. The history must be linearizable: no two nodes have a lease at the same time, a result after the end of
// its lease is refused, and no change replaces one that its node has not read. (Herlihy and Wing, "Linearizability",
// 1990.)
func TestLeasesAndChangesAreLinearizable(t *testing.T) {
	port := freePort(t)
	server := startServer(t, port, "--port", port)
	stores++
	name := fmt.Sprintf("test%d", stores)
	h := &history{begin: time.Now()}
	var nodes []*client
	for i := range 5 {
		s, err := redisstore.New("redis://127.0.0.1:"+port, name, patience)
		require.NoError(t, err)
		defer s.Close()
		nodes = append(nodes, &client{h, i, fmt.Sprintf("node%d", i), s, map[string]cluster.Record{}})
	}
	await(t, func() bool { // a new store grants no leases
		r, _ := nodes[0].do(request{kind: cluster.Acquire, key: "first"})
		return r.made
	})
	h.list = nil
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i, c := range nodes {
		wg.Go(func() { c.run(rand.New(rand.NewPCG(uint64(i), 1)), stop) })
	}
	for range 4 {
		time.Sleep(500 * time.Millisecond)
		cli(port, "", "CLIENT", "KILL", "TYPE", "normal")
		time.Sleep(200 * time.Millisecond)
		require.NoError(t, server.Process.Signal(syscall.SIGSTOP))
		time.Sleep(2 * leaseTTL)
		require.NoError(t, server.Process.Signal(syscall.SIGCONT))
	}
	time.Sleep(500 * time.Millisecond)
	close(stop)
	wg.Wait()
	lost := 0
	for _, o := range h.list {
		if o.Output.(response).lost {
			lost++
		}
	}
	begin := time.Now()
	result := porcupine.CheckOperationsTimeout(keyModel, h.list, patience)
	t.Logf("%d operations, %d without a response, checked in %v", len(h.list), lost, time.Since(begin))
	require.Equal(t, porcupine.Ok, result)
}
