package config

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest/testcert"
)

// certificates writes an authority, a certificate and its key to a folder.
func certificates(t *testing.T) (dir string) {
	dir = t.TempDir()
	a := testcert.NewAuthority(t)
	cert, key := a.Issue(t, "gateway")
	_, other := a.Issue(t, "other")
	for name, data := range map[string][]byte{
		"ca.pem": a.PEM, "cert.pem": cert, "key.pem": key, "other.pem": other, "text.pem": []byte("canary\n"),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	return dir
}

func TestTLS(t *testing.T) {
	dir := certificates(t)
	at := func(text string) (*Config, error) {
		path := filepath.Join(dir, "koanf.toml")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return Load(Source{File: path})
	}
	c, err := at(`
gateway.tls = { cert = "cert.pem", key = "key.pem", client_ca = "ca.pem" }
gateway.users = [{ name = "ann" }]
api.tls = { cert = "cert.pem", key = "key.pem", client_ca = "ca.pem" }
api.keys = [{ name = "ops", certificate = "ops.test", role = "admin" }]
`)
	require.NoError(t, err)
	require.True(t, c.GatewayTLS())
	set := c.Engine().Gateway.TLS
	require.EqualValues(t, tls.VersionTLS12, set.MinVersion)
	require.Equal(t, tls.VerifyClientCertIfGiven, set.ClientAuth)
	require.Len(t, set.Certificates, 1)
	require.NotNil(t, c.APITLS().ClientCAs)
	require.Contains(t, c.Files(), filepath.Join(dir, "cert.pem"))

	c, err = at("")
	require.NoError(t, err)
	require.Nil(t, c.Engine().Gateway.TLS)
	require.Nil(t, c.APITLS())

	users := "\ngateway.users = [{ name = \"ann\", password = \"b\" }]"
	files := `cert = "cert.pem", key = "key.pem"`
	for _, x := range [][2]string{
		{`gateway.tls = { cert = "cert.pem" }`, "gateway.tls: needs both cert and key"},
		{`gateway.tls = { client_ca = "ca.pem" }` + users, "gateway.tls: needs both"},
		{`gateway.tls = { cert = "none.pem", key = "key.pem" }`, "gateway.tls.cert: open"},
		{`api.tls = { cert = "cert.pem", key = "other.pem" }`, "api.tls: cert and key are not"},
		{`api.tls = { cert = "cert.pem", key = "text.pem" }`, "api.tls.key: is not a file in PEM form"},
		{`gateway.tls = { ` + files + `, client_ca = "ca.pem" }`, "without [[gateway.users]]"},
		{`gateway.tls = { ` + files + `, client_ca = "key.pem" }` + users, "has no certificate in PEM form"},
		{`gateway.users = [{ name = "ann" }]`, "password: is missing"},
		{`api.keys = [{ name = "a", certificate = "b", role = "read" }]`, "needs api.tls.client_ca"},
		{`api.keys = [{ name = "a", key = "12345678", certificate = "b", role = "read" }]`, "is set beside key"},
	} {
		_, err := at(x[0])
		require.ErrorContains(t, err, x[1], x[0])
		require.NotContains(t, err.Error(), "canary")
	}
}

// There is a warning about a listener that receives secrets over plain TCP from other machines.
func TestSecretsInClearTextAreWarnedOf(t *testing.T) {
	dir := certificates(t)
	at := func(text string) []string {
		path := filepath.Join(dir, "koanf.toml")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		c, err := Load(Source{File: path})
		require.NoError(t, err)
		return c.Warnings
	}
	users := "gateway.users = [{ name = \"ann\", password = \"b\" }]\n"
	keys := "api.keys = [{ name = \"a\", key = \"12345678\", role = \"read\" }]\n"
	require.Equal(t, []string{
		"gateway.listen: the passwords of users go to 0.0.0.0:1 in clear text; set cert and key in gateway.tls, or " +
			"listen on 127.0.0.1",
		"api.listen: keys go to :2 in clear text; set cert and key in api.tls, or listen on 127.0.0.1",
	}, at("gateway.listen = \"0.0.0.0:1\"\napi.listen = \":2\"\n"+users+keys))
	require.Empty(t, at(users+keys))
	files := "{ cert = \"cert.pem\", key = \"key.pem\" }\n"
	require.Empty(t, at("gateway.listen = \"0.0.0.0:1\"\napi.listen = \":2\"\n"+users+keys+
		"gateway.tls = "+files+"api.tls = "+files))
}

// Proxies get the certificates of their files, and a change of a file reloads the configuration. A list
// that was fetched cannot name files.
func TestTLSOfProxies(t *testing.T) {
	dir := certificates(t)
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	write("list.txt", "https://a:1#ca_file=ca.pem&insecure=true\nhttps://b:1#ca_file=ca.pem&insecure=true\n"+
		"https://c:1#ca_file=none.pem\nhttp://d:1\nhttp://e:1#insecure=true\n")
	file := write("koanf.toml", "proxies = [{ url = \"https://h:1\", ca_file = \"ca.pem\", cert = \"cert.pem\", "+
		"key = \"key.pem\" }]\npool.files = [\"list.txt\"]\n"+
		"pool.urls = [{ url = \"https://lists.test/l\" }]\n")
	c, err := Load(Source{File: file, Fetched: map[string][]byte{
		"https://lists.test/l": []byte("https://f:1#ca_file=ca.pem\nhttps://g:1#insecure=true\n"),
	}})
	require.NoError(t, err)
	specs := c.Engine().Proxies
	require.Len(t, specs, 5)
	require.Equal(t, "cert.pem", specs[0].Extra().TLS.Cert)
	require.True(t, specs[1].Extra().TLS.Insecure)
	require.Same(t, specs[1].Extra().TLS, specs[2].Extra().TLS, "what many proxies have is read once")
	require.Nil(t, specs[3].Extra().TLS)
	require.Equal(t, "g:1", specs[4].Address.Host)
	require.Contains(t, c.Files(), filepath.Join(dir, "cert.pem"))
	require.Len(t, c.Warnings, 3, "c, e and f")
	for line, want := range map[string]string{
		`ca_file = "none.pem"`:                 "proxies[0].ca_file: ca_file: open",
		`cert = "cert.pem"`:                    "proxies[0].cert: cert and key",
		`cert = "cert.pem", key = "other.pem"`: "proxies[0].cert: cert and key are not",
	} {
		_, err := Load(Source{File: write("koanf.toml", "proxies = [{ url = \"https://h:1\", "+line+" }]\n")})
		require.ErrorContains(t, err, want)
	}
	_, err = Load(Source{File: write("koanf.toml", "proxies = [{ url = \"http://h:1\", insecure = true }]\n")})
	require.ErrorContains(t, err, "are for https:// proxies")
}
