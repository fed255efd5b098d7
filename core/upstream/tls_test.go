package upstream

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest/testcert"
)

func TestLoadTLS(t *testing.T) {
	a := testcert.NewAuthority(t)
	cert, key := a.Issue(t, "client")
	files := map[string][]byte{"ca": a.PEM, "cert": cert, "key": key, "text": []byte("canary")}
	read := func(path string) ([]byte, error) {
		if data, ok := files[path]; ok {
			return data, nil
		}
		return nil, errors.New("no such file")
	}
	none, err := LoadTLS(TLSOptions{}, read)
	require.NoError(t, err)
	require.Nil(t, none)
	for _, x := range []struct {
		TLSOptions
		field string
	}{
		{TLSOptions{CAFile: "none"}, "ca_file"}, {TLSOptions{CAFile: "text"}, "ca_file"},
		{TLSOptions{Cert: "cert"}, "cert"},
		{TLSOptions{Key: "key"}, "cert"}, {TLSOptions{Cert: "cert", Key: "text"}, "cert"},
		{TLSOptions{Cert: "none", Key: "key"}, "cert"}, {TLSOptions{Cert: "cert", Key: "none"}, "key"},
	} {
		_, err := LoadTLS(x.TLSOptions, read)
		var bad *SpecError
		require.ErrorAs(t, err, &bad, x)
		require.Equal(t, x.field, bad.Field)
		require.NotContains(t, bad.Msg, "canary")
	}
	load := func(o TLSOptions) *TLS {
		loaded, err := LoadTLS(o, read)
		require.NoError(t, err)
		return loaded
	}
	one := load(TLSOptions{CAFile: "ca"})
	require.True(t, one.equal(load(TLSOptions{CAFile: "ca"})))
	require.False(t, one.equal(nil))
	require.False(t, one.equal(load(TLSOptions{CAFile: "ca", Insecure: true})))
	files["ca"] = testcert.NewAuthority(t).PEM
	require.False(t, one.equal(load(TLSOptions{CAFile: "ca"})), "the contents of the file have changed")

	spec := Spec{ID: "a", Address: Address{Scheme: HTTPS, Host: "h:1"}, Extras: &Extras{TLS: one}}
	require.NoError(t, CheckSpec(&spec))
	spec.Address.Scheme = HTTP
	require.ErrorContains(t, CheckSpec(&spec), "are for https:// proxies")
}
