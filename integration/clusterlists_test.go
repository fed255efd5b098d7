package integration

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// rowOf returns the row of a list of the cluster whose field has the value; nil for none.
func (w *whirl) rowOf(list, field, value string) map[string]any {
	rows, _ := w.getJSON("/cluster/" + list)[list].([]any)
	for _, r := range rows {
		if r := r.(map[string]any); r[field] == value {
			return r
		}
	}
	return nil
}

func nodesOf(row map[string]any) (names []any) {
	nodes, _ := row["nodes"].([]any)
	for _, n := range nodes {
		names = append(names, n.(map[string]any)["node"])
	}
	return names
}

// TestS164ListsOfAllNodes: the lists of breakers and targets of each gateway have the rows of all gateways, with their
// nodes. A gateway without the store lists only its own rows.
func TestS164ListsOfAllNodes(t *testing.T) {
	t.Parallel()
	c := startGateways(t, 3, 3, confCluster)
	for _, f := range c.fakes {
		f.SetScript(func(_ int, r *http.Request) lab.Behaviour {
			if f.Name == "F1" && r.Header.Get("X-Node") == "0" || r.Host == "bad.test" {
				return lab.Challenge()
			}
			return lab.OK()
		})
	}
	_, _, stop := c.drive(20 * time.Millisecond)
	defer stop()
	c.everywhere("the breaker of node0", func(w *whirl) bool {
		row := w.rowOf("breakers", "proxy_id", "F1")
		return row != nil && len(nodesOf(row)) == 1 && nodesOf(row)[0] == "node0"
	})
	c.everywhere("a target of node1 and node2", func(w *whirl) bool {
		for _, n := range c.nodes[1:] {
			n.request("GET", "http://bad.test/", "")
		}
		row := w.rowOf("targets", "target", "bad.test:80")
		return row != nil && len(nodesOf(row)) == 2
	})
	row := c.nodes[0].rowOf("targets", "target", "bad.test:80")
	require.ElementsMatch(t, []any{"node1", "node2"}, nodesOf(row))
	require.Positive(t, row["failures"])
	require.Empty(t, c.nodes[0].getJSON("/cluster/targets")["missing_nodes"])
	c.links[1].set(true, false, 0)
	c.await("node1 is alone", c.nodes[1].isAlone)
	c.await("node1 shows its own rows", func() bool {
		row := c.nodes[1].rowOf("targets", "target", "bad.test:80")
		return row != nil && len(nodesOf(row)) == 1 && nodesOf(row)[0] == "node1"
	})
}

// Two gateways with the same name serve as two nodes; both report that they have the same name.
func TestTwoGatewaysWithOneName(t *testing.T) {
	t.Parallel()
	store := startRedis(t)
	conf := confCluster + "[cluster]\nurl = \"redis://" + store.addr + "\"\nnode = \"gw\"\n"
	a, b := start(t, 1, conf), start(t, 1, conf)
	for _, w := range []*whirl{a, b} {
		eventually(t, "it warns", func() bool {
			return strings.Contains(w.log.String(), "another gateway of the cluster has the same name")
		})
		nodes := w.getJSON("/cluster")["nodes"].([]any)
		require.Len(t, nodes, 2)
		for _, n := range nodes {
			require.Equal(t, true, n.(map[string]any)["same_name"])
		}
		require.Contains(t, w.getJSON("/status")["summary"], "has the name gw, too")
		require.Equal(t, 200, w.get().status)
	}
	require.Contains(t, a.log.String(), "api="+b.api)
	require.Contains(t, b.log.String(), "api="+a.api)
}
