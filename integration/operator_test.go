package integration

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// outage is a gateway with a pool of 5,000 proxies at ten sites. Some of the proxies at the site fra2 do not respond.
type outage struct {
	*whirl
	site string // the address at which these proxies listen, once they work again
}

const outageConfig = `[breaker]
failure_threshold = 3
timeout_duration = "1s"
max_timeout = "1s"
[health]
interval = "1s"
`

// startOutage starts the gateway. The parameter failing is the number of proxies that do not respond, at most 500. One
// fake responds for all other proxies. Each of these has an address of its own in 127.0.0.0/8.
func startOutage(t *testing.T, failing int) *outage {
	const proxies = 5000
	sites := []string{"ams1", "fra1", "fra2", "gru1", "lon1", "nyc1", "nyc2", "sfo1", "sin1", "syd1"}
	good, err := lab.Start("good", "0.0.0.0:0", lab.Always(lab.OK()))
	require.NoError(t, err)
	t.Cleanup(good.Close)
	o := &outage{whirl: start(t, 0, outageConfig)}
	o.stop()
	_, goodPort, err := net.SplitHostPort(good.Addr)
	require.NoError(t, err)
	_, sitePort, err := net.SplitHostPort(freePort(t))
	require.NoError(t, err)
	o.site = "0.0.0.0:" + sitePort
	var list strings.Builder
	for i := range proxies {
		port, site := goodPort, sites[i%len(sites)]
		if site == "fra2" && i < failing*len(sites) {
			port = sitePort
		}
		fmt.Fprintf(&list, "http://127.1.%d.%d:%s#id=p%04d&region=%s&vendor=%s\n", i/250, 1+i%250, port, i, site,
			[]string{"north", "south"}[i%2])
	}
	file := filepath.Join(o.dir, "list.txt")
	require.NoError(t, os.WriteFile(file, []byte(list.String()), 0o600))
	o.startProcess("--proxies", file)
	for range 100 {
		require.Equal(t, 200, o.get().status)
	}
	return o
}

// endOutage makes the proxies of the site work again.
func (o *outage) endOutage() {
	p, err := lab.Start("site", o.site, lab.Always(lab.OK()))
	require.NoError(o.t, err)
	o.t.Cleanup(p.Close)
}

// An outage of 31 proxies at one site in a pool of 5,000 is found, explained and mended on the dashboard.
func TestAnOutageIsMendedOnTheDashboard(t *testing.T) {
	o := startOutage(t, 31)
	b := openBrowser(t, "http://"+o.api+"/", 1280, 1240)
	const verdict = `document.querySelector("#verdict").textContent`
	click := func(selector string) {
		t.Helper()
		require.Equal(t, "<nil>", b.eval(`void document.querySelector(`+fmt.Sprintf("%q", selector)+`).click()`))
	}

	// Found: the first sentence of the page.
	b.until("the page says that 31 proxies fail", verdict+`.startsWith("31 of 5000 proxies fail, all of them with `+
		`proxy unreachable; 100 % delivered") && document.title.startsWith("⚠ 31 of 5000")`)

	// Explained: they are at one site, and nothing listens there.
	b.eval(`{ const by = document.querySelector("#groupby"); by.value = "region"; by.onchange(); }`)
	b.until("the groups show the site", `document.querySelector("#groups").rows[0].textContent.startsWith("fra2") && `+
		`document.querySelector("#groups").rows[0].textContent.includes("31 of 500 fail")`)
	b.eval("scrollTo(0, 0)")
	b.picture("dashboard-outage")
	click("#reasons button")
	b.until("the list has the failing proxies", `document.querySelector("#more").textContent === "31 found" && `+
		`document.querySelector("#list table").ariaRowCount === "32" && `+
		`location.hash.includes("reason=proxy+unreachable")`)
	click("#proxies button")
	b.until("the page of a proxy explains",
		`document.querySelector("#proxy").textContent.includes("proxy_unreachable")`)
	b.picture("dashboard-why")
	click("#proxy .close")

	// Mended: they leave the pool.
	b.eval(`window.confirm = question => (window.asked = question, true)`)
	click("#proxies input")
	click("#selectall")
	b.until("all are selected", `document.querySelector("#selected").textContent === "31 selected"`)
	click("#selection [value=drain]")
	b.until("they are removed", verdict+`.startsWith("All 4969 proxies work")`)
	require.Equal(t, "Remove, when their attempts have ended, 31 proxies?", b.eval("window.asked"))
	b.until("the removal can be undone", `!document.querySelector("#undo").hidden && `+
		`document.querySelector("#toast").textContent.includes("31 proxies removed")`)
	b.eval(`document.querySelector("#undo").focus()`) // the message stays while it has the focus
	b.eval(`document.querySelector("#clear").click(); scrollTo(0, 0)`)
	b.until("the list has the others", `document.querySelector("#more").textContent === "4,969 proxies"`)
	b.picture("dashboard-mended")

	// The site works again. Its proxies are restored.
	o.endOutage()
	click("#undo")
	b.until("they are in the pool again", verdict+`.startsWith("All 5000 proxies work")`)
	b.until("the page says so", `document.querySelector("#toast").textContent.includes("31 proxies in the pool again")`)
	require.Equal(t, 200, o.get().status)
}

// The dashboard shows the demo: one of the six proxies is dead, and others fail now and then.
func TestTheDashboardOfTheDemo(t *testing.T) {
	w := startDemo(t)
	b := openBrowser(t, "http://"+w.api+"/#group=region", 1280, 1500)
	b.until("one proxy fails", `document.querySelector("#proxies").rows.length === 6 && `+
		`document.querySelector("#proxies [data-key=dead] .pill").textContent.startsWith("open") && `+
		`/[12] of 2 fail/.test(document.querySelector("#groups").rows[0].textContent)`)
	if picturesDir != "" { // a picture needs some history
		b.until("there is some traffic", `+document.querySelectorAll("#tiles b")[1].textContent > 150`)
	}
	b.picture("dashboard")
}

// An outage of 31 proxies at one site in a pool of 5,000 is found, explained and mended in a terminal.
func TestAnOutageIsMendedInATerminal(t *testing.T) {
	o := startOutage(t, 31)
	term := openTerminal(t, o.whirl, 118, 24)
	until := func(what, command, want string) {
		t.Helper()
		screen := ""
		for end := time.Now().Add(eventTimeout); !strings.Contains(screen, want); {
			require.True(t, time.Now().Before(end), "never: %s; the screen:\n%s", what, screen)
			screen = term.run(command)
		}
	}
	status := func(what, want string) { t.Helper(); until(what, "whirlpool status | head -1", want) }

	// Found.
	status("31 proxies fail", "31 of 5000 proxies fail, all of them with proxy unreachable")

	// Explained.
	term.clear()
	term.run("whirlpool status | head -1")
	until("the groups show the site", "whirlpool proxies groups --by region | head -4",
		"fra2    500      31       0       proxy unreachable")
	until("the list has the failing proxies", "whirlpool proxies list --state open | head -3", "p0002  open   fra2")
	term.picture("terminal-outage")

	// Mended.
	term.clear()
	until("all are listed", "whirlpool proxies list --state open | awk '/fra2/ {print $1}' >ids; wc -l <ids", "\n31")
	require.Contains(t, term.run("xargs whirlpool proxies drain <ids | tail -2"), "p0302 is draining")
	status("the others work", "all 4969 proxies work")

	// The site works again. Its proxies are restored.
	o.endOutage()
	require.Contains(t, term.run("xargs whirlpool proxies restore <ids | tail -2"), "p0302 is in the pool again")
	status("all work", "all 5000 proxies work")
	term.picture("terminal-mended")
}

// terminal is a shell in tmux.
type terminal struct {
	t      *testing.T
	socket string
	dir    string
}

// openTerminal opens a terminal with the given columns and lines. The shell finds the program whirlpool, and the
// program finds the gateway.
func openTerminal(t *testing.T, w *whirl, columns, lines int) *terminal {
	term := &terminal{t: t, socket: "whirlpool-" + filepath.Base(w.dir) + w.api[10:], dir: w.dir}
	program, err := filepath.Abs(binary)
	require.NoError(t, err)
	require.NoError(t, os.Symlink(program, filepath.Join(w.dir, "whirlpool")))
	rc := "PS1='$ '; PROMPT_COMMAND='printf . >>prompts'; PATH='" + w.dir + "':$PATH\n"
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, "rc"), []byte(rc), 0o600))
	term.tmux("new-session", "-d", "-x", fmt.Sprint(columns), "-y", fmt.Sprint(lines), "-c", w.dir,
		"-e", "WHIRLPOOL_URL=http://"+w.api, "bash --noprofile --rcfile rc")
	t.Cleanup(func() { exec.Command("tmux", "-L", term.socket, "kill-server").Run() })
	eventually(t, "the shell has begun", func() bool { return term.prompts() == 1 })
	return term
}

func (term *terminal) tmux(args ...string) string {
	term.t.Helper()
	out, err := exec.Command("tmux", append([]string{"-L", term.socket}, args...)...).CombinedOutput()
	require.NoError(term.t, err, "%s", out)
	return string(out)
}

// run types a command, waits for its end, and returns the screen.
func (term *terminal) run(command string) string {
	term.t.Helper()
	before := term.prompts()
	term.tmux("send-keys", "-l", command)
	term.tmux("send-keys", "Enter")
	eventually(term.t, command+" has ended", func() bool {
		lines := strings.Split(strings.TrimSpace(term.tmux("capture-pane", "-p")), "\n")
		return term.prompts() > before && strings.TrimSpace(lines[len(lines)-1]) == "$"
	})
	return term.tmux("capture-pane", "-p", "-J")
}

// prompts returns the number of prompts that the shell has printed.
func (term *terminal) prompts() int {
	lines, err := os.ReadFile(filepath.Join(term.dir, "prompts"))
	if err != nil {
		return 0 // the shell has not begun
	}
	return len(lines)
}

// clear clears the screen.
func (term *terminal) clear() {
	term.t.Helper()
	term.tmux("send-keys", "C-l")
	eventually(term.t, "the screen is clear", func() bool {
		return strings.TrimSpace(term.tmux("capture-pane", "-p")) == "$"
	})
}

// picture writes a picture of the screen, if pictures are asked for: aha converts the screen to HTML, and Chromium
// draws the HTML.
func (term *terminal) picture(name string) {
	if picturesDir == "" {
		return
	}
	page := filepath.Join(term.dir, name+".html")
	aha := exec.Command("aha", "--black", "--title", name)
	aha.Stdin = strings.NewReader(strings.TrimRight(term.tmux("capture-pane", "-p", "-e"), "\n"))
	html, err := aha.Output()
	require.NoError(term.t, err)
	style := "<style>body { margin: 16px; font: 14px/1.4 monospace } pre { font: inherit; margin: 0 }</style></head>"
	html = []byte(strings.Replace(string(html), "</head>", style, 1))
	require.NoError(term.t, os.WriteFile(page, html, 0o600))
	lines := strings.Count(string(html), "\n") - 12
	b := openBrowser(term.t, "file://"+page, 1040, 40+20*max(lines, 6))
	b.until("the page is loaded", `document.readyState === "complete"`)
	b.picture(name)
}
