package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest/testcert"
)

// curl uses the gateway and the API over TLS, with passwords, keys and client certificates. A new certificate
// is read from its file while a connection is open.
func TestListenersWithTLS(t *testing.T) {
	t.Parallel()
	a := testcert.NewAuthority(t)
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		return path
	}
	issue := func(name string) (cert, key string) {
		certPEM, keyPEM := a.Issue(t, name)
		return write(name+".pem", certPEM), write(name+".key", keyPEM)
	}
	ca := write("ca.pem", a.PEM)
	issue("gateway")
	ann, annKey := issue("ann")
	ops, opsKey := issue("ops")
	w := start(t, 1, confK)
	site(w, false)
	tls := "{ cert = \"" + dir + "/gateway.pem\", key = \"" + dir + "/gateway.key\", client_ca = \"" + ca + "\" }\n"
	w.writeConfig(confK + "[gateway]\ntls = " + tls +
		"[[gateway.users]]\nname = \"ann\"\npassword = \"open sesame\"\n" +
		"[api]\ntls = " + tls + "[[api.keys]]\nname = \"ops\"\ncertificate = \"ops\"\nrole = \"admin\"\n")
	run := func(args ...string) (string, error) {
		out, err := exec.Command("curl", append([]string{"-sSf", "-m", "20"}, args...)...).CombinedOutput()
		return string(out), err
	}
	through := func(args ...string) (string, error) {
		return run(append([]string{"-x", "https://" + w.gateway, "--proxy-cacert", ca, "http://site.test/"},
			args...)...)
	}
	eventually(t, "the gateway has TLS", func() bool {
		out, err := through("--proxy-user", "ann:open sesame")
		return err == nil && out != ""
	})
	_, err := through()
	require.Error(t, err, "no user")
	out, err := through("--proxy-cert", ann, "--proxy-key", annKey)
	require.NoError(t, err, out)
	require.Equal(t, "F1\n", out)
	out, err = through("--proxy-cert", ann, "--proxy-key", annKey, "--proxytunnel")
	require.NoError(t, err, out)
	require.Contains(t, out, "hello")
	_, err = run("-x", "https://"+w.gateway, "http://site.test/", "--proxy-user", "ann:open sesame")
	require.Error(t, err, "an authority that the client does not know")

	api := "https://" + w.api + "/api/v1/users"
	_, err = run("--cacert", ca, api)
	require.Error(t, err, "no key")
	_, err = run("--cacert", ca, "--cert", ann, "--key", annKey, api)
	require.Error(t, err, "not a certificate of a key")
	out, err = run("--cacert", ca, "--cert", ops, "--key", opsKey, api)
	require.NoError(t, err, out)
	require.Contains(t, out, `"name":"ann"`)
	out, err = run("--cacert", ca, "--cert", ops, "--key", opsKey, "-X", "PUT", "-H", "Content-Type: application/json",
		"-d", `{"max_attempts":2}`, "https://"+w.api+"/api/v1/retry/policy")
	require.NoError(t, err, out)

	a = testcert.NewAuthority(t)
	next := write("next.pem", a.PEM)
	issue("gateway")
	eventually(t, "the new certificate is in use", func() bool {
		_, err := run("-x", "https://"+w.gateway, "--proxy-cacert", next, "--proxy-user", "ann:open sesame",
			"http://site.test/")
		return err == nil
	})
}
