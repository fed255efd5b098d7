package integration

import (
	_ "embed" // clustervisitor.js
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest/testcert"
)

// redisCLI returns the output of redis-cli at an address.
func redisCLI(addr string, args ...string) string {
	out, _ := exec.Command("redis-cli", append([]string{"-p", portOf(addr)}, args...)...).CombinedOutput()
	return string(out)
}

// writeCertificate writes ca.pem of a new authority, and the certificate cert.pem and key.pem that it has signed.
func writeCertificate(t *testing.T) (dir string) {
	dir = t.TempDir()
	a := testcert.NewAuthority(t)
	cert, key := a.Issue(t, "store")
	for name, data := range map[string][]byte{"ca.pem": a.PEM, "cert.pem": cert, "key.pem": key} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	return dir
}

// TestS159StoreWithTLS: gateways share changes over a store with TLS. They log in as a user that has only the rights
// in docs/cluster.md. A gateway that does not trust the store's certificate works alone, and reports the reason.
func TestS159StoreWithTLS(t *testing.T) {
	t.Parallel()
	dir := writeCertificate(t)
	page, err := os.ReadFile("../docs/cluster.md")
	require.NoError(t, err)
	commands := regexp.MustCompile("needs\\s+`([^`]+)`").FindSubmatch(page)
	require.NotNil(t, commands)
	addr, plain := freePort(t), freePort(t)
	startRedisWith(t, addr, "--port", portOf(plain), "--tls-port", portOf(addr), "--tls-auth-clients", "no",
		"--tls-cert-file", dir+"/cert.pem", "--tls-key-file", dir+"/key.pem", "--tls-ca-cert-file", dir+"/ca.pem")
	user := append([]string{"ACL", "SETUSER", "gw", "on", ">hunter2secret", "~whirlpool:*", "&whirlpool:*"},
		strings.Fields(string(commands[1]))...)
	require.Equal(t, "OK\n", redisCLI(plain, user...))
	require.Equal(t, "OK\n", redisCLI(plain, "ACL", "SETUSER", "default", "off"))

	url := "rediss://gw:hunter2secret@" + addr
	c := startNodes(t, 2, 1, confCluster, func(node int) string {
		if node == 1 {
			return url + "?ca=" + dir + "/ca.pem"
		}
		return url
	}, "SSL_CERT_FILE="+dir+"/ca.pem")
	c.nodes[0].putPolicy(`{"max_attempts":7}`)
	c.everywhere("the policy", func(w *whirl) bool { return w.getJSON("/retry/policy")["max_attempts"] == 7.0 })
	status, body := c.nodes[1].upload("POST", "mine", scorerModule(1, 600<<10))
	require.Equal(t, 201, status, body)
	c.everywhere("the upload", func(w *whirl) bool { return w.moduleSum("mine") != "" })
	require.NotContains(t, c.nodes[1].log.String(), "NOPERM")
	require.Equal(t, "rediss://"+addr, c.nodes[1].getJSON("/cluster")["store"].(map[string]any)["url"])

	w := start(t, 1, confCluster+fmt.Sprintf("[cluster]\nurl = %q\n", url)) // the system has other authorities
	eventually(t, "it is alone", func() bool {
		store := w.getJSON("/cluster")["store"].(map[string]any)
		return store["state"] == "alone" && strings.Contains(fmt.Sprint(store["error"]), "certificate")
	})
	require.Equal(t, 200, w.get().status)
	w.configFile += ".bad"
	w.writeConfig(fmt.Sprintf("[cluster]\nurl = %q\n", url+"?ca=/none.pem"))
	out, err := exec.Command(binary, "config", "check", w.configFile).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "cluster.url")
	require.Contains(t, string(out), "/none.pem")
	require.NotContains(t, string(out), "hunter2secret")
}

// clusterVisitor is a script that reads the dashboard of a gateway of a cluster.
//
//go:embed testdata/clustervisitor.js
var clusterVisitor []byte

// TestTheDashboardOfACluster opens the dashboard of one of two gateways in a browser. The dashboard shows both
// gateways, and the sum of their requests. Then the test kills the other gateway and, later, the store.
func TestTheDashboardOfACluster(t *testing.T) {
	c := startGateways(t, 2, 3, confCluster)
	for range 9 {
		require.Equal(t, 200, c.nodes[1].get().status)
	}
	api := dashboardOf(c.nodes[0].api, c.nodes[0].api) // without a key, the API accepts only its own address
	mux := http.NewServeMux()
	mux.Handle("/", api)
	mux.HandleFunc("/fail", func(http.ResponseWriter, *http.Request) {
		c.fakes[0].SetBehaviour(lab.Challenge())
		for range 3 {
			c.nodes[0].request("GET", "http://bad.test/", "")
		}
	})
	mux.HandleFunc("/change", func(http.ResponseWriter, *http.Request) { c.nodes[1].putPolicy(`{"max_attempts":4}`) })
	mux.HandleFunc("/kill", func(http.ResponseWriter, *http.Request) { c.nodes[1].kill() })
	mux.HandleFunc("/stopstore", func(http.ResponseWriter, *http.Request) { c.store.kill() })
	r := visit(t, mux, clusterVisitor)
	require.Empty(t, r.Error, "after %q", r.Done)
	require.Len(t, r.Done, 9)
}

// TestS160Failover: the store is the primary of a Sentinel. It is killed under load. The gateways go on with its
// replica, which has the changes.
func TestS160Failover(t *testing.T) {
	t.Parallel()
	addr := freePort(t)
	primary := startRedisWith(t, addr, "--port", portOf(addr))
	addr = freePort(t)
	replica := startRedisWith(t, addr, "--port", portOf(addr), "--replicaof", "127.0.0.1 "+portOf(primary.addr))
	eventually(t, "the replica follows", func() bool {
		return strings.Contains(redisCLI(replica.addr, "INFO"), "master_link_status:up")
	})
	file := filepath.Join(t.TempDir(), "sentinel.conf")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `sentinel monitor main 127.0.0.1 %s 1
sentinel down-after-milliseconds main 2000
sentinel failover-timeout main 10000
`, portOf(primary.addr)), 0o600))
	addr = freePort(t)
	sentinel := startRedisWith(t, addr, file, "--sentinel", "--port", portOf(addr))
	eventually(t, "the sentinel has found the replica", func() bool {
		return strings.Contains(redisCLI(sentinel.addr, "SENTINEL", "MASTER", "main"), "num-slaves\n1\n")
	})
	c := startNodes(t, 3, 3, confCluster, func(int) string { return "redis://" + sentinel.addr + "?master_set=main" })
	fails, slowest, stop := c.drive(20 * time.Millisecond)
	defer stop()
	c.nodes[0].putPolicy(`{"max_attempts":7}`)
	c.everywhere("the policy", func(w *whirl) bool { return w.getJSON("/retry/policy")["max_attempts"] == 7.0 })

	primary.kill()
	begin := time.Now()
	c.everywhere("alone", (*whirl).isAlone)
	c.nodes[1].putPolicy(`{"base_delay":0.7}`)
	c.everywhere("together", func(w *whirl) bool {
		p := w.getJSON("/retry/policy")
		return !w.isAlone() && p["max_attempts"] == 7.0 && p["base_delay"] == 0.7
	})
	t.Logf("together %v after the primary was killed; slowest request %v", time.Since(begin),
		time.Duration(slowest.Load()))
	c.nodes[2].putPolicy(`{"multiplier":3}`)
	c.everywhere("a change later", func(w *whirl) bool { return w.getJSON("/retry/policy")["multiplier"] == 3.0 })
	stop()
	require.Zero(t, fails.Load())
}
