package integration

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// proxyURLs returns the URLs of the proxies in order.
func (w *whirl) proxyURLs() (urls []string) {
	for _, p := range w.getJSON("/proxies")["proxies"].([]any) {
		urls = append(urls, p.(map[string]any)["url"].(string))
	}
	return urls
}

// Lists in published forms are read from the command line and from the configuration.
func TestPublishedLists(t *testing.T) {
	w := start(t, 0, "")
	for name, content := range map[string]string{
		"table.csv": "ip,port,protocols,anonymity,country\n127.0.1.1,1,http|https,elite,US\n" +
			"127.0.1.2,2,socks5,elite,DE\n",
		"bare.txt":  "127.0.1.3:3\n127.0.1.4:4\n",
		"prose.txt": "Proxy list updated at Mon, 02 Jan\n\n127.0.1.5:5 US-N-S +\n",
		"list.json": `{"data":[{"ip":"127.0.1.6","port":"6","protocols":["socks5"]}]}`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(w.dir, name), []byte(content), 0o600))
	}
	w.stop()
	w.startProcess("--proxies", "socks5:"+filepath.Join(w.dir, "bare.txt"), "--proxies",
		filepath.Join(w.dir, "table.csv"))
	require.ElementsMatch(t, []string{
		"http://127.0.1.1:1", "socks5://127.0.1.2:2", "socks5://127.0.1.3:3", "socks5://127.0.1.4:4",
	}, w.proxyURLs())
	w.writeConfig("[pool]\nfiles = [\"prose.txt\", \"list.json\", { file = \"bare.txt\", scheme = \"socks5h\" }]\n")
	eventually(t, "the lists are read", func() bool {
		return strings.Contains(fmt.Sprint(w.proxyURLs()), "http://127.0.1.5:5")
	})
	require.Contains(t, w.proxyURLs(), "socks5://127.0.1.6:6")
	require.Contains(t, w.proxyURLs(), "socks5h://127.0.1.3:3")
}

// A list is fetched by URL, refreshed when the configuration is read again with another URL, and kept when the
// server fails. The secrets of its URL are shown nowhere.
func TestAListThatIsFetched(t *testing.T) {
	var broken atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() {
			http.Error(w, "gone", http.StatusBadGateway)
			return
		}
		io.WriteString(w, map[string]string{"/a": "127.0.1.1:1\n", "/b": "127.0.1.2:2\n"}[r.URL.Path])
	}))
	defer server.Close()
	w := start(t, 0, "")
	address := "http://user:hunter2@" + strings.TrimPrefix(server.URL, "http://")
	list := func(path string) string {
		return "{ url = \"" + address + path + "?key=hunter2\", scheme = \"socks5\" }"
	}
	w.writeConfig("[pool]\nurls = [" + list("/a") + "]\n")
	eventually(t, "the list is used", func() bool { return fmt.Sprint(w.proxyURLs()) == "[socks5://127.0.1.1:1]" })
	w.writeConfig("[pool]\nurls = [" + list("/a") + ", " + list("/b") + "]\n")
	eventually(t, "both lists are used", func() bool { return len(w.proxyURLs()) == 2 })
	broken.Store(true)
	w.writeConfig("[pool]\nurls = [" + list("/a") + ", " + list("/c") + "]\n")
	eventually(t, "the failure is logged", func() bool { return strings.Contains(w.log.String(), "status 502") })
	require.Equal(t, []string{"socks5://127.0.1.1:1"}, w.proxyURLs())
	_, config, _ := w.call("GET", "/config", "")
	w.stop()
	require.Contains(t, string(config), "/a?***")
	require.NotContains(t, string(config)+w.log.String(), "hunter2")
}

// A list that is written in place over some seconds is read once, when it is complete. Proxies that stay in
// it keep their breakers.
func TestAListThatIsRewrittenSlowly(t *testing.T) {
	for !rewriteSlowly(t) {
	}
}

// rewriteSlowly returns false if this machine paused the writer, so that the list was unchanged for nearly as long as
// a list that is complete.
func rewriteSlowly(t *testing.T) (inTime bool) {
	w := start(t, 2, confOpen)
	list := filepath.Join(w.dir, "list.txt")
	line := func(f *lab.Proxy) string { return "http://" + f.Addr + "#id=L" + f.Name + "\n" }
	require.NoError(t, os.WriteFile(list, []byte(line(w.fakes[0])+line(w.fakes[1])), 0o600))
	w.stop()
	w.startProcess("--proxies", list)
	require.Len(t, w.proxyURLs(), 4)
	w.setAll(lab.Status(503))
	eventually(t, "the breaker of a proxy of the list opens", func() bool {
		w.get()
		return w.breaker("L" + w.fakes[1].Name)["state"] == "open"
	})
	reloads := strings.Count(w.log.String(), "reloaded")
	f, err := os.OpenFile(list, os.O_WRONLY|os.O_TRUNC, 0)
	require.NoError(t, err)
	defer f.Close()
	all := "# new\nhttp://127.0.1.9:9#id=new\n" + line(w.fakes[0]) + line(w.fakes[1])
	for i := 0; i < len(all); i += 10 { // takes about 1.5 s
		begun := time.Now()
		_, err := f.WriteString(all[i:min(i+10, len(all))])
		require.NoError(t, err)
		time.Sleep(100 * time.Millisecond)
		if time.Since(begun) > 400*time.Millisecond {
			return false
		}
	}
	eventually(t, "the new list is in force", func() bool { return len(w.proxyURLs()) == 5 })
	require.Equal(t, "open", w.breaker("L" + w.fakes[1].Name)["state"])
	w.stop() // after that, the log is complete
	require.Equal(t, reloads+1, strings.Count(w.log.String(), "reloaded"))
	return true
}
