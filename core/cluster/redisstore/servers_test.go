package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/cluster"
	"github.com/whirlpool-proxy/whirlpool/core/cluster/redisstore"
	"github.com/whirlpool-proxy/whirlpool/core/coretest/testcert"
)

// patience is the longest time that a test waits for an event. Only a failing test waits for this time.
const patience = time.Minute

// lastPort is the last port that freePort has tried. It begins at a random port, because tests of other packages may
// run at the same time.
var lastPort = 10_000 + rand.IntN(20_000)

// freePort returns a port on which nothing listens, below the ports of outgoing connections. It returns no port twice.
func freePort(t testing.TB) string {
	for range 100 {
		lastPort++
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", lastPort))
		if err == nil {
			defer l.Close()
			_, port, err := net.SplitHostPort(l.Addr().String())
			require.NoError(t, err)
			return port
		}
	}
	t.Fatal("no free port found")
	return ""
}

// startServer runs a redis-server (make deps) with the arguments until it accepts connections on the port.
func startServer(t testing.TB, port string, args ...string) *exec.Cmd {
	args = append(args, "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir())
	cmd := exec.Command("redis-server", args...)
	require.NoError(t, cmd.Start(), "install redis-server: make deps")
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	await(t, func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return cmd
}

// put writes a record.
func put(s *redisstore.Store, value string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience/3)
	defer cancel()
	ops := []cluster.Op{{Kind: cluster.Put, Key: "k", Value: value}}
	_, err := s.Exchange(ctx, cluster.Batch{Limit: 10, Ops: ops})
	return err
}

// get reads the record that put has written; "" for none.
func get(s *redisstore.Store) (value string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience/3)
	defer cancel()
	r, err := s.Exchange(ctx, cluster.Batch{Limit: 10})
	if err != nil || len(r.Changed) == 0 {
		return "", err
	}
	return r.Changed[0].Value, nil
}

// await waits until f returns true.
func await(t testing.TB, f func() bool) {
	t.Helper()
	for begin := time.Now(); !f(); time.Sleep(20 * time.Millisecond) {
		require.Less(t, time.Since(begin), patience)
	}
}

// writeCertificate writes ca.pem of a new authority, and the certificate cert.pem and key.pem that it has signed.
func writeCertificate(t testing.TB) (dir string) {
	dir = t.TempDir()
	a := testcert.NewAuthority(t)
	cert, key := a.Issue(t, "store")
	for name, data := range map[string][]byte{"ca.pem": a.PEM, "cert.pem": cert, "key.pem": key} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	return dir
}

// cli returns the output of redis-cli.
func cli(port, password string, args ...string) string {
	cmd := exec.Command("redis-cli", append([]string{"-p", port}, args...)...)
	if cmd.Env = os.Environ(); password != "" {
		cmd.Env = append(cmd.Env, "REDISCLI_AUTH="+password)
	}
	out, _ := cmd.CombinedOutput()
	return string(out)
}

// A store with TLS is reached if its certificate is valid for the authority, and this node's certificate for the store.
func TestTLS(t *testing.T) {
	dir, other := writeCertificate(t), writeCertificate(t)
	port := freePort(t)
	startServer(t, port, "--port", "0", "--tls-port", port, "--tls-auth-clients", "yes",
		"--tls-cert-file", dir+"/cert.pem", "--tls-key-file", dir+"/key.pem", "--tls-ca-cert-file", dir+"/ca.pem")
	connect := func(params string) (err error) {
		s := newStore(t, "rediss://127.0.0.1:"+port+"?"+params)
		defer s.Close()
		await(t, func() bool { // on a slow machine several exchanges wait for the connection
			err = put(s, "x")
			return err == nil || !errors.Is(err, context.DeadlineExceeded)
		})
		return err
	}
	ca, pair := "ca="+dir+"/ca.pem", "&cert="+dir+"/cert.pem&key="+dir+"/key.pem"
	require.NoError(t, connect(ca+pair))
	require.ErrorContains(t, connect(pair[1:]), "unknown authority")
	require.ErrorContains(t, connect("ca="+other+"/ca.pem"+pair), "unknown authority")
	require.Error(t, connect(ca), "without a certificate")
	require.Error(t, connect(ca+"&cert="+other+"/cert.pem&key="+other+"/key.pem"), "of another authority")
}

func TestFilesOfTLS(t *testing.T) {
	dir := writeCertificate(t)
	for params, want := range map[string]string{
		"ca=" + dir + "/none.pem":                           "has a ca that cannot be read: open " + dir,
		"ca=" + dir + "/key.pem":                            "without a certificate",
		"cert=" + dir + "/cert.pem":                         "has a cert and key that cannot be used",
		"cert=" + dir + "/key.pem&key=" + dir + "/key.pem":  "has a cert and key that cannot be used",
		"ca=" + dir + "/ca.pem":                             "",
		"cert=" + dir + "/cert.pem&key=" + dir + "/key.pem": "",
		"sentinel_user=a&sentinel_password=b&master_set=m":  "",
	} {
		err := redisstore.CheckURL("rediss://h?" + params)
		if want == "" {
			require.NoError(t, err, params)
			continue
		}
		require.ErrorContains(t, err, want, params)
	}
	require.ErrorContains(t, redisstore.CheckURL("redis://h?ca="+dir+"/ca.pem"), "the scheme must be rediss")
}

// If the primary of a Sentinel ends, the exchanges go on with its replica, which has the records. All servers have TLS,
// and the Sentinel has a password of its own.
func TestSentinel(t *testing.T) {
	dir := writeCertificate(t)
	first, second, sentinel := freePort(t), freePort(t), freePort(t)
	secure := []string{"--tls-auth-clients", "no", "--tls-replication", "yes", "--tls-cert-file", dir + "/cert.pem",
		"--tls-key-file", dir + "/key.pem", "--tls-ca-cert-file", dir + "/ca.pem"}
	data := append(secure, "--requirepass", "datasecret", "--masterauth", "datasecret")
	primaryPlain, replicaPlain, sentinelPlain := freePort(t), freePort(t), freePort(t) // for redis-cli
	primary := startServer(t, first, slices.Concat(data, []string{"--port", primaryPlain, "--tls-port", first})...)
	startServer(t, second, slices.Concat(data, []string{"--port", replicaPlain, "--tls-port", second,
		"--replicaof", "127.0.0.1 " + first})...)
	await(t, func() bool { return strings.Contains(cli(replicaPlain, "datasecret", "INFO"), "master_link_status:up") })
	file := filepath.Join(t.TempDir(), "sentinel.conf")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `sentinel monitor main 127.0.0.1 %s 1
sentinel auth-pass main datasecret
sentinel down-after-milliseconds main 4000
sentinel failover-timeout main 5000
`, first), 0o600))
	startServer(t, sentinel, slices.Concat([]string{file, "--sentinel"}, secure,
		[]string{"--requirepass", "sentinelsecret", "--port", sentinelPlain, "--tls-port", sentinel})...)

	s := newStore(t, "rediss://:datasecret@127.0.0.1:"+sentinel+"?master_set=main&sentinel_password=sentinelsecret&ca="+
		dir+"/ca.pem")
	defer s.Close()
	await(t, func() bool { return put(s, "before") == nil })
	require.NoError(t, put(s, "last"))
	await(t, func() bool {
		return strings.Contains(cli(replicaPlain, "datasecret", "HVALS", key(":records")), " last")
	})
	await(t, func() bool {
		return strings.Contains(cli(sentinelPlain, "sentinelsecret", "SENTINEL", "MASTER", "main"), "num-slaves\n1\n")
	})
	primary.Process.Kill()
	primary.Wait()
	await(t, func() bool {
		value, err := get(s)
		require.True(t, err != nil || value == "last", value)
		return err == nil
	})
	require.NoError(t, put(s, "after"))
}

// A Redis Cluster of three servers is a store: all keys have one slot.
func TestRedisCluster(t *testing.T) {
	var ports []string
	for i := range 3 {
		port, bus := freePort(t), freePort(t)
		startServer(t, port, "--port", port, "--cluster-enabled", "yes", "--cluster-port", bus)
		from, to := i*16384/3, (i+1)*16384/3-1
		require.Contains(t, cli(port, "", "CLUSTER", "ADDSLOTSRANGE", fmt.Sprint(from), fmt.Sprint(to)), "OK")
		if i > 0 {
			require.Contains(t, cli(port, "", "CLUSTER", "MEET", "127.0.0.1", ports[0], ports[1]), "OK")
		}
		if ports == nil {
			ports = []string{port, bus}
		}
	}
	await(t, func() bool { return strings.Contains(cli(ports[0], "", "CLUSTER", "INFO"), "cluster_state:ok") })
	for range 8 { // the slots of some names are on the second and third servers
		s := newStore(t, "redis://127.0.0.1:"+ports[0])
		await(t, func() bool { return put(s, "x") == nil })
		value, err := get(s)
		require.NoError(t, err)
		require.Equal(t, "x", value)
		s.Close()
	}
}

// If a store has evicted a part of its data, because it lacked memory, all of its data count as lost: the nodes write
// them again.
func TestEviction(t *testing.T) {
	url := startRedis(t)
	port := url[strings.LastIndexByte(url, ':')+1:]
	for _, part := range []string{":meta", ":records", ":order", ":leases", ":ends"} {
		s := newStore(t, url)
		var last cluster.Reply
		exchange := func(ops ...cluster.Op) []int64 {
			t.Helper()
			var err error
			b := cluster.Batch{Epoch: last.Epoch, Cursor: last.Cursor, Limit: 10, Ops: ops}
			last, err = s.Exchange(t.Context(), b)
			require.NoError(t, err)
			return last.Results
		}
		rev := exchange(cluster.Op{Kind: cluster.Put, Key: "k", Value: "x", TTL: time.Hour})[0]
		epoch := last.Epoch
		exchange()
		require.Equal(t, epoch, last.Epoch)
		require.Empty(t, last.Changed)
		require.Equal(t, "1\n", cli(port, "", "DEL", key(part)))
		require.Zero(t, exchange(cluster.Op{Kind: cluster.Swap, Key: "k", Value: "z", Rev: rev})[0], part)
		require.NotEqual(t, epoch, last.Epoch, part)
		require.Empty(t, last.Changed, part)
		require.Greater(t, exchange(cluster.Op{Kind: cluster.Swap, Key: "k", Value: "y"})[0], rev, part)
		require.Equal(t, "y", last.Changed[0].Value, part)
		s.Close()
	}
}

// A full store continues: exchanges fail until there is free memory again, and no data are lost.
func TestFullStore(t *testing.T) {
	url := startRedis(t)
	port := url[strings.LastIndexByte(url, ':')+1:]
	s := newStore(t, url)
	defer s.Close()
	require.NoError(t, put(s, "before"))
	cli(port, "", "CONFIG", "SET", "maxmemory", "1")
	require.ErrorContains(t, put(s, "during"), "OOM")
	_, err := get(s)
	require.ErrorContains(t, err, "OOM")
	cli(port, "", "CONFIG", "SET", "maxmemory", "0")
	value, err := get(s)
	require.NoError(t, err)
	require.Equal(t, "before", value)
	require.NoError(t, put(s, "after"))
}
