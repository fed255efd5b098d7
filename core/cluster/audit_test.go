package cluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// All nodes have the same audit trail, also after a time without the store and after the store has lost its data. A
// node reports each new entry of another node once.
func TestTheAuditTrail(t *testing.T) {
	now := time.Unix(1e9, 0)
	clock := func() time.Time { return now }
	memory := NewMemory(clock)
	a, b := manual(t, memory, "a", clock), manual(t, memory, "b", clock)
	step := func() {
		for range 3 {
			for _, g := range []*gateway{a, b} {
				now = now.Add(time.Second)
				g.node().Step(t.Context())
			}
		}
	}
	step()
	paths := func(g *gateway) (out []string) {
		for _, e := range g.node().AuditTrail() {
			out = append(out, e.Node+" "+e.Key+" "+e.Path)
		}
		return out
	}
	a.node().Audit(AuditEntry{Key: "alice", Method: "PUT", Path: "/1", Changed: []string{"max_attempts"}, Total: 1})
	require.Equal(t, []string{"a alice /1"}, paths(a), "before the store has it")
	made := now
	step()
	require.Equal(t, []string{"a alice /1"}, paths(b))
	e := b.node().AuditTrail()[0]
	require.WithinDuration(t, made, e.At, time.Millisecond)
	e.At = time.Time{}
	require.Equal(t, AuditEntry{Node: "a", Key: "alice", Method: "PUT", Path: "/1", Changed: []string{"max_attempts"},
		Total: 1}, e)

	memory.Fail(errCut)
	step()
	b.node().Audit(AuditEntry{Path: "/2"})
	now = now.Add(reportFor / 2)
	a.node().Audit(AuditEntry{Path: "/3"})
	memory.Fail(nil)
	memory.Clear()
	step()
	expected := []string{"a  /3", "b  /2", "a alice /1"}
	require.Equal(t, expected, paths(a))
	require.Equal(t, expected, paths(b))
	c := manual(t, memory, "c", clock)
	c.node().Step(t.Context())
	require.Equal(t, expected, paths(c), "the store has all of it again")
	memory.Clear()
	step()
	require.Equal(t, []string{"b /2"}, a.audited)
	require.Equal(t, []string{"a /1", "a /3"}, b.audited)
	require.Empty(t, c.audited, "they are older than the node")

	memory.Fail(errCut)
	step()
	b.node().Audit(AuditEntry{Path: "/old"})
	now = now.Add(reportFor)
	b.node().Audit(AuditEntry{Path: "/new"})
	memory.Fail(nil)
	step()
	require.Equal(t, []string{"b  /new", "b  /old"}, paths(a)[:2])
	require.Equal(t, []string{"b /2", "b /new"}, a.audited, "an old entry is not reported")

	for i := range auditEntries + 5 {
		a.node().Audit(AuditEntry{Path: fmt.Sprint("/many", i)})
		now = now.Add(time.Millisecond)
	}
	step()
	require.Len(t, paths(b), auditEntries+3)
	require.Equal(t, "a  /many204", paths(b)[0])
	require.Equal(t, []string{"a  /many5", "b  /new", "b  /old", "b  /2"}, paths(b)[auditEntries-1:])
	now = now.Add(auditFor)
	for range 5 {
		step()
	}
	require.Empty(t, paths(a))
}

// A node keeps a limited number of entries.
func TestTheAuditTrailIsLimited(t *testing.T) {
	g := manual(t, NewMemory(time.Now), "a", time.Now)
	n := g.node()
	for i := range maxTrail + 10 {
		key := keyOf(auditKey, "b", fmt.Sprint(i))
		n.receiveAudit("b", &Record{Key: key, Value: "{}", Rev: 1, At: time.Unix(int64(i), 0)})
	}
	n.receiveAudit("b", &Record{Key: "broken", Value: "no JSON"})
	n.expireAudits(time.Unix(0, 0))
	trail := n.AuditTrail()
	require.Len(t, trail, maxTrail)
	require.Equal(t, time.Unix(maxTrail+9, 0), trail[0].At)
	require.Equal(t, time.Unix(10, 0), trail[maxTrail-1].At)
}
