package integration

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// visitor is what somebody does on the dashboard, in the page itself. Each step
// waits for what the page should show, and reports if it does not.
const visitor = `<script>(async()=>{
const done=[];let prompts=0;window.prompt=()=>{prompts++;return null};
const until=async(what,f)=>{const end=Date.now()+20000;while(Date.now()<end){if(f())return done.push(what);await new Promise(r=>setTimeout(r,50))}
 throw new Error("never: "+what+"\n"+document.body.innerText)};
const text=id=>document.getElementById(id).textContent,rows=id=>[...document.querySelectorAll("#"+id+" tr")];
const plugin=name=>rows("plugins").find(tr=>tr.firstChild.textContent===name);
const press=(name,what)=>[...plugin(name).querySelectorAll("button")].find(b=>b.textContent===what).click();
const enter=k=>{const f=document.getElementById("login");f.key.value=k;f.requestSubmit()};
try{
 await until("asks for a key",()=>text("err")==="an API key is needed"&&!document.getElementById("login").hidden);
 enter("not-the-key");await until("says that it is another's",()=>text("err").includes("none of its API keys"));
 enter("reads-only");await until("shows the proxies",()=>rows("proxies").length===3&&text("err")==="");
 await until("fits a narrow window",()=>document.documentElement.scrollWidth<=innerWidth);
 press("random","use for first");await until("says why not",()=>text("said").includes("role admin"));
 key="may-do-all"; // as the page calls it
 const reset=rows("proxies")[0].querySelector("button");reset.focus();
 await fetch("/traffic");await until("follows the traffic",()=>text("tiles").startsWith("3requests"));
 if(document.activeElement!==reset)throw new Error("a button loses its focus when the page is brought up to date");
 press("random","use for first");await until("shows what came of it",()=>plugin("random").textContent.includes("first")&&text("said")==="");
 await fetch("/stop");await until("says that nobody answers",()=>text("err").includes("does not answer; what is below is of")&&document.getElementById("all").className==="stale");
 await fetch("/go");await until("goes on by itself",()=>text("err")===""&&document.getElementById("all").className==="");
 if(prompts)throw new Error(prompts+" dialogs");
 fetch("/report",{method:"POST",body:JSON.stringify({done})})
}catch(e){fetch("/report",{method:"POST",body:JSON.stringify({done,error:e.message})})}
})()</script>`

// TestTheDashboard visits the dashboard with a browser: through a server that
// adds the visitor to the page, and can look like a gateway that has stopped.
func TestTheDashboard(t *testing.T) {
	w := start(t, 3, confK+"[[api.keys]]\nkey = \"reads-only\"\nrole = \"read\"\n[[api.keys]]\nkey = \"may-do-all\"\nrole = \"admin\"\n")
	var stopped atomic.Bool
	type report struct {
		Done  []string
		Error string
	}
	reports := make(chan report, 1)
	api := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: w.api})
	api.ModifyResponse = func(r *http.Response) error {
		if r.Request.URL.Path != "/" {
			return nil
		}
		page, err := io.ReadAll(r.Body)
		page = append(page, visitor...)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(page)), int64(len(page))
		r.Header.Del("Content-Length")
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(rw http.ResponseWriter, q *http.Request) {
		if stopped.Load() {
			panic(http.ErrAbortHandler) // the connection ends without an answer
		}
		api.ServeHTTP(rw, q)
	})
	mux.HandleFunc("/stop", func(http.ResponseWriter, *http.Request) { stopped.Store(true) })
	mux.HandleFunc("/go", func(http.ResponseWriter, *http.Request) { stopped.Store(false) })
	mux.HandleFunc("/traffic", func(http.ResponseWriter, *http.Request) {
		for range 3 {
			w.get()
		}
	})
	mux.HandleFunc("/report", func(_ http.ResponseWriter, q *http.Request) {
		var r report
		json.NewDecoder(q.Body).Decode(&r)
		reports <- r
	})
	server := httptest.NewServer(mux)
	defer server.Close()

	said := &buffer{}
	browser := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--window-size=500,800", "--user-data-dir="+t.TempDir(), "--remote-debugging-port=0", server.URL)
	browser.Stdout, browser.Stderr = said, said
	browser.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it is many processes
	require.NoError(t, browser.Start())
	defer func() {
		syscall.Kill(-browser.Process.Pid, syscall.SIGKILL)
		browser.Wait()
	}()
	select {
	case r := <-reports:
		require.Empty(t, r.Error, "after %q", r.Done)
		require.Len(t, r.Done, 9)
	case <-time.After(3 * time.Minute):
		t.Fatalf("the visitor does not report; the browser says:\n%s", said)
	}
}
