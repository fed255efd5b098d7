package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// A rotating gateway has one exit per connection. With reuse = false, ten requests use ten connections. The
// API can change the setting.
func TestS91ReuseFalse(t *testing.T) {
	w := start(t, 1, confK)
	proxy := w.fakes[0]
	connections := func() int {
		before := proxy.Connections()
		for range 10 {
			require.Equal(t, 200, w.get().status)
		}
		return proxy.Connections() - before
	}
	require.LessOrEqual(t, connections(), 2)
	set := func(reuse bool) {
		status, body, _ := w.call("PATCH", "/proxies/F1", fmt.Sprintf(`{"reuse":%v}`, reuse))
		require.Equal(t, 200, status, "%s", body)
		require.Equal(t, reuse, w.getJSON("/proxies/F1")["reuse"])
	}
	set(false)
	require.Equal(t, 10, connections())
	set(true)
	require.LessOrEqual(t, connections(), 1)
	w.reconcile(0)
}

// The option in a proxy list has the same effect, until the list's content changes.
func TestS91ReuseFalseInAList(t *testing.T) {
	proxy, err := lab.Start("F", "127.0.0.1:0", lab.Always(lab.OK()))
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	list := filepath.Join(t.TempDir(), "list.txt")
	write := func(option string) {
		require.NoError(t, os.WriteFile(list+".new", []byte("http://"+proxy.Addr+"#id=P&reuse="+option+"\n"), 0o600))
		require.NoError(t, os.Rename(list+".new", list))
	}
	write("false")
	w := start(t, 0, confK+"[pool]\nfiles = [\""+list+"\"]\n")
	for range 10 {
		require.Equal(t, 200, w.get().status)
	}
	require.Equal(t, 10, proxy.Connections())
	write("true")
	eventually(t, "the list is read again", func() bool { return w.getJSON("/proxies/P")["reuse"] == true })
	for range 10 {
		require.Equal(t, 200, w.get().status)
	}
	require.Equal(t, 11, proxy.Connections())
	w.reconcile(20)
}
