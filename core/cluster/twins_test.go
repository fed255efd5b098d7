package cluster

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// If live nodes have the same name, all nodes mark them, and each of these nodes warns once of each other node with its
// name. A node that starts again under its name is not marked, whether its previous process was killed, has ended or is
// draining.
func TestNodesWithTheSameName(t *testing.T) {
	now := time.Unix(1e9, 0)
	clock := func() time.Time { return now }
	memory := NewMemory(clock)
	var log bytes.Buffer
	live := map[string]*Node{}
	start := func(id, name string) *Node {
		n := New(Config{Name: "test", Node: name, ID: id, Host: "host-" + id, Address: "127.0.0.1:8889", Store: memory,
			Timeout: DefaultTimeout, Now: clock, Log: slog.New(slog.NewTextHandler(&log, nil))})
		n.Attach(&gateway{name: name, breakers: map[string]*watched{}, values: map[string]string{},
			bans: map[string]time.Time{}, seeds: map[string]Stats{}})
		live[id] = n
		return n
	}
	run := func(d time.Duration) {
		for end := now.Add(d); now.Before(end); now = now.Add(100 * time.Millisecond) {
			for _, n := range live {
				n.Step(t.Context())
			}
		}
	}
	twins := func(n *Node) (ids []string) {
		for _, s := range n.Status().Nodes {
			if s.Twin {
				ids = append(ids, s.ID)
			}
		}
		return ids
	}
	const warning = "has the same name"
	other := start("c", "gw-2")
	start("a1", "gw-1")
	run(20 * time.Second)

	delete(live, "a1") // killed
	start("a2", "gw-1")
	run(20 * time.Second)
	live["a2"].announceLeave()
	delete(live, "a2")
	start("a3", "gw-1")
	run(20 * time.Second)
	live["a3"].Drain() // and goes on for long
	start("a4", "gw-1")
	run(time.Minute)
	delete(live, "a3")
	run(20 * time.Second)
	require.Empty(t, twins(other))
	require.NotContains(t, log.String(), warning)

	start("b", "gw-1")
	run(twinsAfter - time.Second)
	require.Empty(t, twins(other))
	run(5 * time.Second)
	for _, n := range live {
		require.Equal(t, []string{"a4", "b"}, twins(n))
	}
	require.Equal(t, 2, bytes.Count(log.Bytes(), []byte(warning)), "each of the two, once")
	require.Contains(t, log.String(), "host=host-a4 api=127.0.0.1:8889")
	require.Contains(t, log.String(), "host=host-b api")

	start("d", "gw-1")
	run(twinsAfter + 5*time.Second)
	for _, n := range live {
		require.Equal(t, []string{"a4", "b", "d"}, twins(n))
	}
	require.Equal(t, 6, bytes.Count(log.Bytes(), []byte(warning)), "each of the three, of two")
	require.Equal(t, 2, bytes.Count(log.Bytes(), []byte("host=host-d api")))
	delete(live, "b")
	delete(live, "d")
	run(20 * time.Second)
	require.Empty(t, twins(other))
	run(twinsAfter)
	require.Equal(t, 6, bytes.Count(log.Bytes(), []byte(warning)))
}
