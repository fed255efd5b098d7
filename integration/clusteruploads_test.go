package integration

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// scorerModule returns a scorer of about the given size. Modules with different scores differ.
func scorerModule(score float64, size int) []byte {
	m := wasmtest.Scorer(wasmtest.Scores(score)...)
	m.Custom = map[string][]byte{"padding": make([]byte, size)}
	return m.Bytes()
}

// moduleSum returns the SHA-256 of a plugin's module; "" without the plugin.
func (w *whirl) moduleSum(plugin string) string {
	_, body, _ := w.call("GET", "/plugins/"+plugin, "")
	var v struct{ SHA256 string }
	json.Unmarshal(body, &v)
	return v.SHA256
}

// requireStatus sends a request to the API and requires the status want.
func (w *whirl) requireStatus(want int, method, path, body string) {
	w.t.Helper()
	status, response, _ := w.call(method, path, body)
	require.Equal(w.t, want, status, "%s", response)
}

func hexSum(code []byte) string {
	sum := sha256.Sum256(code)
	return hex.EncodeToString(sum[:])
}

// clusterUpload returns the state of a shared upload on a node; nil for none.
func (w *whirl) clusterUpload(plugin string) map[string]any {
	list, _ := w.getJSON("/cluster")["uploads"].([]any)
	for _, u := range list {
		if u := u.(map[string]any); u["name"] == plugin {
			return u
		}
	}
	return nil
}

// TestS162UploadsOnAllNodes: after a plugin is uploaded to one gateway, all gateways have it, and a gateway that
// starts later gets it. The gateways still have the plugin if the store loses its data. If two modules are uploaded
// under one name, all gateways use the same one. If an upload fails on one gateway, this gateway reports the failure,
// and the others use the plugin.
func TestS162UploadsOnAllNodes(t *testing.T) {
	t.Parallel()
	c := startGateways(t, 3, 2, confCluster)
	for i, w := range c.nodes[:2] { // the third gateway has no state folder
		w.kill()
		w.stateDir = filepath.Join(w.dir, "state")
		conf := confCluster + fmt.Sprintf("[cluster]\nurl = \"redis://%s\"\nnode = \"node%d\"\n", c.links[i].addr, i)
		if i == 1 {
			conf += "[plugins.taken]\nbuiltin = \"random\"\n"
		}
		w.writeConfig(conf)
		w.startProcess()
	}
	c.together()
	holds := func(name string, sums ...string) func(w *whirl) bool {
		return func(w *whirl) bool {
			for _, sum := range sums {
				if w.moduleSum(name) == sum {
					return true
				}
			}
			return false
		}
	}
	first := scorerModule(1, 3<<20)
	status, body := c.nodes[0].upload("POST", "mine", first)
	require.Equal(t, 201, status, body)
	begin := time.Now()
	took := c.everywhere("the upload", holds("mine", hexSum(first)))
	t.Logf("3 MB are on all %v after the response", took)
	require.LessOrEqual(t, took, time.Second+tolerance(begin))
	c.nodes[1].requireStatus(200, "POST", "/plugins/mine/activate", `{"for":"first"}`)
	active := func(w *whirl) bool {
		return strings.Contains(fmt.Sprint(w.getJSON("/plugins/mine")["used_for"]), "first")
	}
	c.everywhere("the activation", active)

	// Two modules at the same time.
	second, third := scorerModule(2, 1<<20), scorerModule(3, 1<<20)
	var wg sync.WaitGroup
	wg.Go(func() { c.nodes[0].upload("PUT", "mine", second) })
	wg.Go(func() { c.nodes[2].upload("PUT", "mine", third) })
	wg.Wait()
	settled := func() bool {
		sums := map[string]bool{}
		for _, w := range c.nodes {
			store := w.getJSON("/cluster")["store"].(map[string]any)
			if store["waiting"] != 0.0 || w.clusterUpload("mine")["state"] != "ready" {
				return false
			}
			sums[w.moduleSum("mine")], sums[w.clusterUpload("mine")["sha256"].(string)] = true, true
		}
		return len(sums) == 1
	}
	c.await("one winner", settled)
	winner := c.nodes[0].moduleSum("mine")
	require.Contains(t, []string{hexSum(second), hexSum(third)}, winner)

	// A gateway without a state folder starts again, once also after the store has lost its data. It uses the plugin
	// again.
	for _, lose := range []bool{false, true} {
		if lose {
			c.store.kill()
			c.everywhere("alone", (*whirl).isAlone)
			c.store.start()
			c.everywhere("together", func(w *whirl) bool { return !w.isAlone() })
		}
		for _, i := range []int{2, 1} {
			c.nodes[i].kill()
			c.nodes[i].startProcess()
			c.everywhere("after a restart", func(w *whirl) bool { return holds("mine", winner)(w) && active(w) })
		}
	}
	require.Equal(t, 200, c.nodes[2].get().status)

	// node1 has a plugin of this name in its configuration.
	taken := scorerModule(4, 1<<10)
	status, body = c.nodes[2].upload("POST", "taken", taken)
	require.Equal(t, 201, status, body)
	c.await("node0 has it", func() bool { return holds("taken", hexSum(taken))(c.nodes[0]) })
	c.await("node1 says why not", func() bool {
		u := c.nodes[1].clusterUpload("taken")
		return u["state"] == "failed" && strings.Contains(fmt.Sprint(u["error"]), "comes from the configuration")
	})
	require.Contains(t, c.nodes[1].scrape(), "\nwhirlpool_cluster_uploads{state=\"failed\"} 1\n")
	c.await("the log says so", func() bool {
		return strings.Contains(c.nodes[1].log.String(), "an uploaded plugin of the cluster is not in force here")
	})
	c.await("node0 knows", func() bool {
		for _, n := range c.nodes[0].getJSON("/cluster")["nodes"].([]any) {
			if n := n.(map[string]any); n["node"] == "node1" && n["failed_uploads"] == 1.0 {
				return true
			}
		}
		return false
	})

	// A deletion.
	c.nodes[0].requireStatus(200, "POST", "/plugins/random/activate", `{"for":"first"}`)
	c.nodes[0].requireStatus(204, "DELETE", "/plugins/mine", "")
	c.everywhere("the deletion", func(w *whirl) bool { return w.moduleSum("mine") == "" })
	c.nodes[1].kill()
	c.nodes[1].startProcess()
	c.await("it stays deleted", func() bool { return !c.nodes[1].isAlone() && c.nodes[1].moduleSum("mine") == "" })
}
