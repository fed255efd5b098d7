package integration

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
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
func TestS221PublishedLists(t *testing.T) {
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

// A list is fetched by URL. If a reload changes the URL, the list is fetched again. If the server fails, the gateway
// keeps the list. No output has the secrets of the URL.
func TestS222AListThatIsFetched(t *testing.T) {
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

// A list that is written in place over some seconds is read once, when it is complete. Proxies that stay in the list
// keep their breakers.
func TestS223AListThatIsRewrittenSlowly(t *testing.T) {
	for !rewriteSlowly(t) {
	}
}

// rewriteSlowly returns false if this machine paused the writer for so long that the list may have looked complete.
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

// The template of a list makes ids that name the account of a vendor's proxies, whatever happens to the other lines.
func TestS219IDsThatNameTheAccount(t *testing.T) {
	t.Parallel()
	w := startWithState(t, 1, confK)
	list := filepath.Join(w.dir, "list.txt")
	host := w.fakes[0].Addr
	lines := func(logins ...string) {
		text := ""
		for _, login := range logins {
			text += "http://" + login + "@" + host + "\n"
		}
		require.NoError(t, os.WriteFile(list+".new", []byte(text), 0o600))
		require.NoError(t, os.Rename(list+".new", list))
	}
	users := func() (ids []string) {
		for _, p := range w.getJSON("/proxies")["proxies"].([]any) {
			if id := p.(map[string]any)["id"].(string); id != "F1" {
				ids = append(ids, id)
			}
		}
		return ids
	}
	at := "@" + host
	lines("ann:hunter2secret", "bob:hunter2secret", "eve:hunter2secret")
	config := confK + "[pool]\nfiles = [{ file = \"list.txt\", id = \"{user}@{host}:{port}\" }]\n"
	w.writeConfig(config)
	eventually(t, "the list is read", func() bool { return len(users()) == 3 })
	require.ElementsMatch(t, []string{"ann" + at, "bob" + at, "eve" + at}, users())
	status, _, _ := w.call("PATCH", "/proxies/eve"+at, `{"weight":4}`)
	require.Equal(t, 200, status)
	seen := map[string]bool{}
	eventually(t, "each of them serves", func() bool { seen[w.get().proxy()] = true; return len(seen) == 4 })
	require.True(t, seen["ann"+at])

	out, err := exec.Command(binary, "config", "check", w.configFile).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "such as http://***"+at+", id ann"+at+"\n")
	require.NotContains(t, string(out), "hunter2")

	lines("eve:hunter2secret", "ann:other")
	eventually(t, "the list is read again", func() bool { return len(users()) == 2 })
	w.kill()
	lines("new:x", "ann:third", "eve:hunter2secret", "direct:x")
	w.startProcess()
	require.ElementsMatch(t, []string{"new" + at, "ann" + at, "eve" + at, "direct" + at}, users())
	require.Equal(t, 4.0, w.getJSON("/proxies/eve" + at)["weight"], "the change of eve is still in force")

	w.writeConfig(strings.Replace(config, "{user}", "{password}", 1))
	eventually(t, "the wrong template is refused", func() bool {
		return strings.Contains(w.log.String(), "pool.files[0].id: must not have the password: ids are in logs")
	})
	require.Len(t, users(), 4)
}

// A proxy that leaves its list and returns within ten minutes has its breaker and its statistics again.
func TestS226AProxyReturnsToItsList(t *testing.T) {
	t.Parallel()
	w := start(t, 1, "[breaker]\ntimeout_duration = \"10m\"\nmax_timeout = \"10m\"\n")
	list := filepath.Join(w.dir, "list.txt")
	dead := "http://" + freePort(t)
	write := func(lines ...string) {
		require.NoError(t, os.WriteFile(list+".new", []byte(strings.Join(lines, "\n")+"\n"), 0o600))
		require.NoError(t, os.Rename(list+".new", list))
	}
	write(dead, "http://127.0.1.1:1")
	w.writeConfig("[breaker]\ntimeout_duration = \"10m\"\nmax_timeout = \"10m\"\n[pool]\nfiles = [\"list.txt\"]\n")
	id := strings.TrimPrefix(dead, "http://")
	eventually(t, "the breaker opens", func() bool {
		w.get()
		return strings.Contains(w.log.String(), "circuit breaker open\" proxy_id="+id)
	})
	for _, proxies := range []int{2, 3} {
		write([]string{"http://127.0.1.1:1", dead}[:proxies-1]...)
		eventually(t, "the list is read", func() bool { return len(w.proxyURLs()) == proxies })
	}
	require.Equal(t, "open", w.breaker(id)["state"])
	require.NotContains(t, w.getJSON("/proxies/127.0.1.1:1")["url"], dead)
}

// A misspelt option of a line is metadata, and config check, doctor and the log of the start and of a reload say so.
func TestS255AMisspeltOption(t *testing.T) {
	w := start(t, 0, "")
	list := filepath.Join(w.dir, "list.txt")
	require.NoError(t, os.WriteFile(list, []byte("127.0.1.1:1#max_in_flght=3&city=x\n"), 0o600))
	w.writeConfig("[pool]\nfiles = [\"list.txt\"]\n")
	eventually(t, "the list is read", func() bool { return len(w.proxyURLs()) == 1 })
	const warning = "did you mean max_in_flight?"
	eventually(t, "the reload warns", func() bool { return strings.Contains(w.log.String(), warning) })
	proxy := w.getJSON("/proxies")["proxies"].([]any)[0].(map[string]any)
	require.Equal(t, map[string]any{"max_in_flght": "3", "city": "x"}, proxy["metadata"])
	require.EqualValues(t, 0, proxy["max_in_flight"])
	for _, command := range []string{"config check " + w.configFile, "doctor --config " + w.configFile} {
		out, _ := w.command(strings.Fields(command)...)
		require.Contains(t, out, list+`:1: the option "max_in_flght" is not known`, command)
		require.Contains(t, out, warning, command)
	}
}
