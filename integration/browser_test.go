package integration

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// browser is a Chromium that a test controls by the DevTools protocol over two pipes. Its methods fail the test if
// Chromium reports an error.
type browser struct {
	t       *testing.T
	log     *coretest.Log
	in      *os.File
	out     *bufio.Reader
	last    int
	session string // session of the page
}

// openBrowser opens a URL in a window of the given size.
func openBrowser(t *testing.T, url string, width, height int) *browser {
	toBrowser, in, err := os.Pipe()
	require.NoError(t, err)
	out, fromBrowser, err := os.Pipe()
	require.NoError(t, err)
	b := &browser{t: t, log: &coretest.Log{}, in: in, out: bufio.NewReader(out)}
	cmd := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--no-first-run", "--remote-debugging-pipe", "--user-data-dir="+t.TempDir(), "about:blank")
	cmd.ExtraFiles = []*os.File{toBrowser, fromBrowser} // descriptors 3 and 4
	cmd.Stdout, cmd.Stderr = b.log, b.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // because the browser consists of many processes
	require.NoError(t, cmd.Start())
	toBrowser.Close()
	fromBrowser.Close()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		in.Close()
		out.Close()
	})
	require.NoError(t, out.SetReadDeadline(time.Now().Add(3*time.Minute)))
	b.openTab(url, width, height)
	return b
}

// openTab opens a URL in a new tab of the given size. The other methods are about this tab from now on, until session
// is set to that of another one.
func (b *browser) openTab(url string, width, height int) (session string) {
	b.t.Helper()
	b.session = ""
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": url}, &target)
	var attached struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{
		"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false,
	}, nil)
	return b.session
}

// call calls a method of the DevTools protocol. Events that arrive meanwhile are skipped.
func (b *browser) call(method string, params, result any) {
	b.t.Helper()
	b.last++
	message, err := json.Marshal(map[string]any{
		"id": b.last, "method": method, "params": params, "sessionId": b.session,
	})
	require.NoError(b.t, err)
	if b.session == "" {
		message = []byte(strings.Replace(string(message), `,"sessionId":""`, "", 1))
	}
	_, err = b.in.Write(append(message, 0))
	require.NoError(b.t, err)
	for {
		text, err := b.out.ReadBytes(0)
		require.NoError(b.t, err, "%s: the browser says:\n%s", method, b.log)
		var response struct {
			ID     int
			Error  *struct{ Message string }
			Result json.RawMessage
		}
		require.NoError(b.t, json.Unmarshal(text[:len(text)-1], &response))
		if response.ID != b.last {
			continue
		}
		require.Nil(b.t, response.Error, "%s: %s", method, text)
		if result != nil {
			require.NoError(b.t, json.Unmarshal(response.Result, result))
		}
		return
	}
}

// eval runs JavaScript in the page and returns its value as text.
func (b *browser) eval(script string) string {
	b.t.Helper()
	var r struct {
		Result           struct{ Value any }
		ExceptionDetails *struct {
			Exception struct{ Description string }
		}
	}
	b.call("Runtime.evaluate", map[string]any{"expression": script, "returnByValue": true, "awaitPromise": true}, &r)
	if r.ExceptionDetails != nil {
		return "exception: " + r.ExceptionDetails.Exception.Description
	}
	return fmt.Sprint(r.Result.Value)
}

// until waits until an expression is true in the page.
func (b *browser) until(what, expression string) {
	b.t.Helper()
	for end := time.Now().Add(eventTimeout); ; time.Sleep(50 * time.Millisecond) {
		last := b.eval(expression)
		if last == "true" {
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("never: %s (%s)\n%s", what, last, b.eval("document.body.innerText"))
		}
	}
}

// picturesDir is the folder for pictures of the stories; "" for none. The command make pictures sets it.
var picturesDir = os.Getenv("WHIRLPOOL_PICTURES")

// picture writes a picture of the visible part the DevTools session of the page, if pictures are asked for.
func (b *browser) picture(name string) {
	if picturesDir == "" {
		return
	}
	var r struct{ Data string }
	b.call("Page.captureScreenshot", map[string]any{"format": "png"}, &r)
	data, err := base64.StdEncoding.DecodeString(r.Data)
	require.NoError(b.t, err)
	require.NoError(b.t, os.WriteFile(filepath.Join(picturesDir, name+".png"), data, 0o644))
}
