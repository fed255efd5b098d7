package cluster

import (
	"bytes"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A node that cannot reach the store lists itself as live, with its present figures, even if it has never reached the
// store. It does not know whether the other nodes are live.
func TestAloneNodeListsItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.end()
		states := func(g *gateway) (live []string, own NodeStatus) {
			for _, n := range g.node().Status().Nodes {
				if n.Live {
					live = append(live, n.Node)
				}
				if n.Self {
					own = n
				}
			}
			return live, own
		}
		first := r.nodes[0]
		live, _ := states(first)
		require.Equal(t, []string{"node0", "node1"}, live)
		for _, g := range r.nodes {
			g.store.set(errCut, false)
		}
		time.Sleep(2 * time.Second)
		first.try("p", time.Millisecond)
		time.Sleep(20 * time.Second)
		live, own := states(first)
		require.Equal(t, []string{"node0"}, live)
		require.Zero(t, own.Seen)
		require.EqualValues(t, 1, own.Requests)
		require.EqualValues(t, 1, own.Alone)
		require.Len(t, first.node().Status().Nodes, 2)

		first.stop()
		<-first.done
		first.start()
		time.Sleep(2 * time.Second)
		live, own = states(first)
		require.Equal(t, []string{"node0"}, live)
		require.EqualValues(t, 1, own.Requests)
		for _, g := range r.nodes {
			g.store.set(nil, false)
		}
		time.Sleep(4 * time.Second)
		live, _ = states(first)
		require.Equal(t, []string{"node0", "node1"}, live)
	})
}

// The log states once why the store cannot be reached. If the first failed exchange has only reached its timeout, the
// log states the reason as soon as it is known.
func TestLogNamesTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		defer r.end()
		g := r.nodes[0]
		g.stop()
		<-g.done
		var log bytes.Buffer
		store := &link{Store: r.store}
		n := New(Config{Name: "test", Node: "x", ID: "x", Store: store, Timeout: DefaultTimeout, Now: time.Now,
			Log: slog.New(slog.NewTextHandler(&log, nil))})
		n.Attach(g)
		steps := func(err error, hang bool) string {
			log.Reset()
			store.set(err, hang)
			for range 3 {
				n.Step(t.Context())
			}
			return strings.Join(regexp.MustCompile(`msg=.*`).FindAllString(log.String(), -1), "\n")
		}
		const reached = `msg="the cluster's store cannot be reached`
		require.Equal(t, reached+` yet: this gateway serves alone until then" error="context deadline exceeded"`,
			steps(nil, true))
		require.Equal(t, `msg="the cluster's store still cannot be reached" error="connection refused"`,
			steps(errCut, false))
		require.Empty(t, steps(nil, true))
		require.Empty(t, steps(errCut, false))
		steps(nil, false)
		require.Equal(t, reached+`: this gateway goes on alone" error="connection refused"`, steps(errCut, false))
		require.Empty(t, steps(nil, true))
	})
}
