package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// sshServer starts OpenSSH's sshd for the present user. It returns its address, and the options with which ssh logs in.
func sshServer(t *testing.T) (address string, options []string) {
	t.Helper()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"host", "user"} {
		out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path(name)).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	if os.Getuid() == 0 {
		require.NoError(t, os.MkdirAll("/run/sshd", 0o755)) // sshd needs this directory if it runs as root
	}
	address = freePort(t)
	host, port, _ := strings.Cut(address, ":")
	cmd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-h", path("host"), "-p", port,
		"-o", "ListenAddress="+host, "-o", "AuthorizedKeysFile="+path("user.pub"), "-o", "StrictModes=no",
		"-o", "UsePAM=no", "-o", "PidFile=none")
	var log coretest.Log
	cmd.Stdout, cmd.Stderr = &log, &log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	eventually(t, "sshd listens", func() bool { return strings.Contains(log.String(), "Server listening") })
	return address, []string{
		"-F", "/dev/null", "-i", path("user"), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
	}
}

// ssh reaches a server through the gateway with OpenBSD's nc as its ProxyCommand, by CONNECT and by SOCKS5. If a proxy
// refuses the tunnel, another one is used.
func TestSSHThroughTheGateway(t *testing.T) {
	address, options := sshServer(t)
	w := start(t, 3, "")
	w.setAll(lab.Behaviour{TunnelTo: address})
	w.fakes[0].SetBehaviour(lab.Status(503))
	me, err := user.Current()
	require.NoError(t, err)
	sent := bytes.Repeat([]byte("whirlpool\n"), 100_000)
	for _, version := range []string{"connect", "5"} {
		for range 4 {
			through := fmt.Sprintf("ProxyCommand=nc -X %s -x %s %%h %%p", version, w.gateway)
			cmd := exec.Command("ssh", append(options, "-o", through, me.Username+"@host.test", "cat")...)
			var errors bytes.Buffer
			cmd.Stdin, cmd.Stderr = bytes.NewReader(sent), &errors
			received, err := cmd.Output()
			require.NoError(t, err, "nc -X %s: %s", version, &errors)
			require.True(t, bytes.Equal(sent, received), "nc -X %s: %d bytes", version, len(received))
		}
	}
	w.awaitIdle()
	for _, f := range w.fakes {
		for _, a := range f.Arrivals() {
			require.Equal(t, "CONNECT host.test:22", a.Method+" "+a.Target)
		}
	}
	w.reconcile(0)
}
