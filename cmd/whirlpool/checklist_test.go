package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/listcheck"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

func TestWritePrivate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "good.txt")
	require.NoError(t, os.WriteFile(file, []byte("an older and longer list"), 0o644))
	require.NoError(t, writePrivate(file, "http://u:p@a.test:1\n"))
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "http://u:p@a.test:1\n", string(text))
	require.NoError(t, writePrivate(os.DevNull, "x"))
	require.Error(t, writePrivate(t.TempDir(), "x"))
}

// A proxy of several lists is checked once. A good proxy is written in the form in which it was read; a proxy of a
// table or of JSON is written as a URL.
func TestProxiesOfSeveralLists(t *testing.T) {
	var files []string
	for name, text := range map[string]string{
		"a": "1.2.3.4:80:ann:pw\n1.2.3.5:80 US\n", "b": "IP;Port\n1.2.3.5;80\n1.2.3.6;81\n", "c": `["1.2.3.7:80"]`,
	} {
		file := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		files = append(files, file)
	}
	slices.SortFunc(files, func(a, b string) int { return strings.Compare(filepath.Base(a), filepath.Base(b)) })
	o := listOptions{scheme: "http"}
	specs, err := o.readLists(checkListCommand(), files)
	require.NoError(t, err)
	var good []listcheck.Result
	for i := range specs {
		good = append(good, listcheck.Result{Spec: specs[i], Index: i})
	}
	require.Equal(t, "1.2.3.4:80:ann:pw\n1.2.3.5:80 US\nhttp://1.2.3.6:81\nhttp://1.2.3.7:80\n", o.goodList(good))
	_, err = o.readLists(checkListCommand(), append(files, filepath.Join(t.TempDir(), "missing")))
	require.ErrorContains(t, err, "missing")
}

// The hint names the number of proxies that may be SOCKS proxies, in the singular or the plural.
func TestHintAtDetect(t *testing.T) {
	result := func(scheme string, mute bool) listcheck.Result {
		address := upstream.Address{Scheme: scheme, Host: "a.test:1"}
		return listcheck.Result{Mute: mute, Spec: upstream.Spec{Address: address}}
	}
	mute := result("http", true)
	for want, results := range map[string][]listcheck.Result{
		"": {result("http", false), result("socks5", true)},
		"1 proxy accepts connections but sends no HTTP response; it may be a SOCKS proxy: try --detect\n": {mute},
		"3 proxies accept connections but send no HTTP response; they may be SOCKS proxies: try --detect\n": {
			mute, mute, result("http", false), mute},
	} {
		var out strings.Builder
		hintAtDetect(&out, results)
		require.Equal(t, want, out.String())
	}
}
