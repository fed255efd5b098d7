// What somebody does on the dashboard, in the page itself: TestTheDashboard adds
// it. Each step waits for what the page should show, and reports if it does not.
import { api } from "./api.js";
import { stackedBars } from "./chart.js";
import { clock as timeOf, date, hour, number, rows } from "./dom.js";
import { refresh } from "./live.js";
import { showPolicy } from "./policy.js";
import { uses } from "./proxies.js";
import { session } from "./session.js";
import { showTarget } from "./target.js";

(async () => {
  const done = [], dialogs = [], questions = [], clock = Date.now;
  Date.now = () => clock() + 3600000; // another than the gateway's
  window.prompt = window.alert = text => { dialogs.push(text); return null; };
  const one = selector => document.querySelector(selector);
  const text = selector => one(selector).textContent.trim();
  const kinds = chart => one(chart).dataset.kinds.split(" ");
  const greenPixels = canvas => {
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    let n = 0;
    for (let i = 0; i < data.length; i += 4) if (data[i + 3] === 255 && data[i + 1] > 2 * data[i]) n++;
    return n;
  };
  // green reports whether a chart has a green bar.
  const green = chart => greenPixels(one(chart + " canvas")) > 0;
  const row = key => one(`tr[data-key="${key}"]`);
  const press = (key, what) => [...row(key).querySelectorAll("button")].find(b => b.textContent === what).click();
  // openPart returns for how many pixels a band is open, at its end.
  const openPart = key => {
    const [, from, to] = /var\(--bad\) (\d+)px (\d+)px\)$/.exec(row(key).querySelector(".band").dataset.image) || [];
    return to - from || 0;
  };
  const enter = key => { one("#login input").value = key; one("#login").requestSubmit(); };
  const type = (input, value) => {
    input.value = value;
    input.dispatchEvent(new Event("input", { bubbles: true })); // as a keyboard does
  };
  const choose = (id, value) => { one(id).value = value; one(id).dispatchEvent(new Event("change", { bubbles: true })); };
  const change = (name, value) => {
    type(one(`#change [name=${name}]`), value);
  };

  async function until(what, shown) {
    for (const end = Date.now() + 60000; Date.now() < end;) {
      let is = false;
      try { is = shown(); } catch {} // what it looks at is not there yet
      if (is) return done.push(what);
      await new Promise(next => setTimeout(next, 50));
    }
    throw new Error("never: " + what + "\n" + document.body.innerText);
  }

  // checkFormats compares the page's own formats with those of Intl, which take too long.
  function checkFormats() {
    const intl = new Intl.NumberFormat("en");
    for (const n of [0, 1, 999, 1000, 12345, 1234567.5, -1234, 0.5, 0.00012, 99.9996, 1e15]) {
      if (number.format(n) !== intl.format(n)) throw new Error(number.format(n) + " for " + intl.format(n));
    }
    for (let t = 1e12; t < 1e12 + 2e8; t += 12345678) {
      const text = new Date(t).toLocaleTimeString("en-GB", { hourCycle: "h23" });
      if (timeOf(t) !== text || hour(t) !== text.slice(0, 5)) throw new Error(timeOf(t) + " for " + text);
    }
    for (const none of [undefined, null, "", "never"]) if (date(none) !== "") throw new Error(date(none) + " for " + none);
    if (!date(0)) throw new Error("no date");
  }

  async function visit() {
    checkFormats();
    await until("asks for a key", () => !one("#login").hidden && one("main").hidden);
    enter("not-the-key");
    await until("says that it is another's", () => text("#login [role=alert]") === "the API does not accept this key");
    enter("reads-only");
    await until("shows the proxies", () => one("#login").hidden && !one("main").hidden && text("#link") === "live" && one("#proxies").rows.length === 3 && row("random"));
    const here = (await api("config")).gateway;
    await until("says how to use it", () => text("#curl") === "curl -i -x http://" + here + " http://example.com/");
    await until("fits a narrow window", () => document.documentElement.scrollWidth <= innerWidth);
    await until("hides what the key may not do", () => getComputedStyle(one("#upload")).display === "none" && text("#role").includes("only read"));
    press("random", "use for first");
    await until("says why not", () => text("#alert").includes("role admin"));
    session.key = "may-do-all"; // as the page calls it
    refresh();
    await until("shows what another key may do", () => getComputedStyle(one("#upload")).display !== "none");

    const reset = [...row("F1").querySelectorAll("button")].find(b => b.textContent === "reset");
    reset.focus();
    await fetch("traffic");
    await until("counts the requests", () => text("#tiles").includes("9requests12 attempts") && text("#tiles").includes("3successful after a retry"));
    await until("shows the open breaker", () => row("F1").querySelector(".pill").textContent.startsWith("open ") && text("#tiles").includes("2 of 3breakers closed"));
    await until("draws how long it is open", () => openPart("F1") > 0 && openPart("F1") < 72 && !openPart("F2"));
    await until("tells of the event", () => [...one("#transitions").rows[0].cells].slice(1).map(cell => cell.textContent).join() === "F1,closed → open,threshold");
    await until("shows a retried request", () => /^F1 503,F[23] 200$/.test([...one("#requests").rows[0].querySelectorAll(".step")].map(step => step.textContent).join()));
    await until("draws the traffic", () => one("#chart").dataset.kinds === "first retried" && green("#chart"));
    await until("says in a sentence what fails", () => text("#verdict").startsWith("1 of 3 proxies fails with 503") && document.title.startsWith("⚠ 1 of 3"));
    await until("draws the history", () => { refresh(); return kinds("#history").includes("delivered") && green("#history"); });
    const plot = one("#history .u-over"), corner = plot.getBoundingClientRect();
    const point = x => plot.dispatchEvent(new MouseEvent("mousemove", { clientX: x, clientY: corner.top + 9, bubbles: true }));
    point(corner.left + 1);
    await until("has no caption where nothing was", () => text("#history figcaption") === "");
    for (let x = corner.right; x > corner.left && text("#history figcaption") === ""; x--) point(x);
    await until("shows the figures under the pointer", () => /^..:..: (\d requests|the gateway has started)/.test(text("#history figcaption")));
    if (document.activeElement !== reset) throw new Error("a button loses its focus when the page is brought up to date");
    choose("#groupby", "reason");
    await until("groups the proxies by reason", () => one("#groups").rows.length === 2 && text("#groups").startsWith("503 at ") && location.hash.includes("group=reason"));
    one("#groups button").click();
    await until("shows the proxies of a reason", () => one("#proxies").rows.length === 1 && row("F1") && location.hash.includes("reason=503"));
    one("#clear").click();
    await until("clears the filter", () => one("#proxies").rows.length === 3 && !location.hash.includes("reason="));
    press("F1", "reset");
    await until("closes the breaker", () => row("F1").querySelector(".pill").textContent === "closed");
    press("F1", "F1");
    await until("shows the page of a proxy", () => one("#proxy").open && text("#proxy").includes("retry status") && /F1 503.*F[23] 200/.test(text("#proxy .requests")) && location.hash.includes("proxy=F1"));
    one("#proxy .requests button").click();
    await until("shows a request of the proxy", () => one("#request").open && one("#request .waterfall tbody").rows.length === 2);
    one("#request .close").click();
    one("#proxy .close").click();
    one("#requests button").click();
    await until("draws the attempts of a request", () => one("#request").open && one("#request .waterfall tbody").rows.length === 2);
    one("#request .close").click();
    showTarget("origin.test"); // with blame = "literal" no target is listed
    await until("shows the page of a target", () => one("#target").open && text("#target").includes("retry status") && kinds("#targethistory").includes("failed") && location.hash.includes("target="));
    one("#target .close").click();
    await until("shows the events", () => [...one("#events").rows].some(tr => tr.textContent.includes("F1: closed → open, threshold")));
    for (const view of ["success", "latency", "retries", "bans", "cost", "requests"]) {
      choose("#historyview", view);
      if (text("#historylegend") === "") throw new Error("no legend of " + view);
    }
    await until("marks the start", () => kinds("#history").includes("mark") && text("#changes").includes("the gateway has started"));
    type(one("#find [name=q]"), "f2");
    await until("finds a proxy", () => one("#proxies").rows.length === 1 && row("F2") && text("#more") === "1 found" && location.hash.includes("q=f2"));
    type(one("#find [name=q]"), "");
    await until("shows all proxies again", () => one("#proxies").rows.length === 3 && !one("#proxy").open);
    row("F3").querySelector("input").click();
    one("#selectall").click();
    await until("selects all proxies", () => text("#selected") === "3 selected" && one("#selectall").hidden);
    one("#selectnone").click();
    await until("selects none", () => one("#selection").hidden && !row("F3").querySelector("input").checked);
    window.confirm = question => { questions.push(question); return true; };
    row("F3").querySelector("input").click();
    one("#selection [value=delete]").click();
    await until("removes a proxy", () => one("#proxies").rows.length === 2 && text("#toast").startsWith("F3 removed") && questions.join() === "Remove at once F3?");
    one("#undo").click();
    await until("undoes the removal", () => row("F3") && text("#toast").startsWith("1 proxy in the pool again"));
    row("F2").querySelector("input").click();
    one("#selection [value=ban]").click();
    await until("bans a proxy", () => row("F2").querySelector(".pill").textContent === "banned" && text("#toast").startsWith("F2 banned for an hour"));
    one("#undo").click();
    await until("undoes the ban", () => row("F2").querySelector(".pill").textContent === "closed");
    type(one("#add textarea"), "http://127.0.0.1:1#id=one&vendor=north\nhttp://127.0.0.1:2#id=two\nnonsense");
    one("#add").requestSubmit();
    await until("reads a list", () => text("#readingtext").startsWith("2 proxies can be added; 1 entry is left out.") && text("#readingwarnings").startsWith("line 3: ") && one("#proxies").rows.length === 3);
    one("#addread").click();
    await until("adds proxies", () => one("#proxies").rows.length === 5 && text("#toast").startsWith("2 proxies added") && one("#reading").hidden);
    type(one("#find [name=vendor]"), "NORTH");
    await until("filters by vendor", () => one("#proxies").rows.length === 1 && row("one") && location.hash.includes("vendor=NORTH"));
    one("#clear").click();
    one("#undo").click();
    await until("undoes the addition", () => one("#proxies").rows.length === 3 && text("#toast").startsWith("2 proxies removed again"));

    one("#exportlist").click();
    await until("exports a list", () => text("#toast").startsWith("Users and passwords are not part of proxies.txt"));

    const used = name => row(name).cells[4].textContent.split(", ").includes("first");
    const before = [...one("#plugins").rows].map(tr => tr.dataset.key).find(used);
    press("random", "use for first");
    await until("shows what came of it", () => row("random").cells[4].textContent === "first" && one("#alert").hidden);
    one("#undo").click();
    await until("undoes the activation", () => used(before));
    const chosen = new DataTransfer(); // a module that states its settings and logs a line
    chosen.items.add(new File([await (await fetch("module")).blob()], "Talker.wasm"));
    const upload = one("#upload").elements;
    upload.module.files = chosen.files;
    upload.module.dispatchEvent(new Event("change"));
    await until("names the plugin after its file", () => upload.name.value === "talker");
    one("#upload").requestSubmit();
    await until("shows the upload", () => row("talker"));
    press("talker", "details");
    await until("shows the log of a plugin", () => /info +hello/.test(text("#log")));
    const margin = () => one("#settings [name=margin]");
    await until("shows its settings", () => margin().max === "1" && margin().placeholder === "0.1" && text("#settings label").includes("how near"));
    margin().value = "0.5";
    one("#settings").requestSubmit();
    await until("changes a setting", () => margin().defaultValue === "0.5");
    press("talker", "details");
    await until("hides the details", () => one("#details").hidden);

    await until("draws the policy", () => document.querySelectorAll("#attempts circle").length === 3);
    one("summary").click();
    change("max_attempts", "4");
    change("retry_status_codes", "399");
    one("#change").requestSubmit();
    await until("says what is wrong with a policy", () => text("#change [role=status]").includes("399"));
    showPolicy(await api("retry/policy"));
    await until("keeps what was typed", () => one("#change [name=max_attempts]").value === "4");
    change("retry_status_codes", "429");
    one("#change").requestSubmit();
    await until("previews a policy", () => !one("#preview").hidden && text("#preview").includes("Of the latest 9 requests, 3 would have had fewer attempts") && text("#preview").includes("3 attempts with status 503 would no longer be retried"));
    change("retry_status_codes", "503, 429");
    await until("hides the preview of other values", () => one("#preview").hidden);
    one("#change").requestSubmit();
    await until("previews the changed policy", () => !one("#preview").hidden);
    one("#apply").click();
    await until("puts a policy in force", () => text("#change [role=status]").startsWith("applied at") && document.querySelectorAll("#attempts circle").length === 4);
    one("#undo").click();
    await until("undoes the policy", () => text("#toast").startsWith("the former policy") && document.querySelectorAll("#attempts circle").length === 3 && text("#source") === "from the configuration file");
    change("max_attempts", "4");
    change("retry_status_codes", "503, 429");
    one("#change").requestSubmit();
    await until("previews it again", () => !one("#preview").hidden);
    one("#apply").click();
    await until("marks the policy", () => text("#changes").includes("the retry policy has changed"));
    choose("#eventtype", "policy,reload,activation");
    await until("shows the changes only", () => [...one("#events").rows].every(tr => !tr.textContent.includes("breaker")) && text("#events").includes("changed: up to 4 attempts"));
    await until("puts the policy in force again", () => document.querySelectorAll("#attempts circle").length === 4);

    const reread = what => { refresh(); return text("#reload").includes(what); };
    await fetch("edit?max_attempts=11");
    await until("tells that the configuration was not reloaded", () => reread("koanf.toml:2: retry.max_attempts: must be 1 to 10"));
    one("#configuration summary").click();
    await until("shows the errors of the configuration", () => text("#faults").includes("retry.max_attempts") && text("#loaded").includes("the configuration before it is in force"));
    await until("shows the configuration", () => text("#sections").includes("failure_threshold = 3") && !text("#sections").includes("may-do-all"));
    await fetch("edit?max_attempts=3");
    await until("tells that it was", () => reread("") && one("#reload").hidden);

    await fetch("stop");
    await until("says that nobody answers", () => text("#link").includes("does not respond; this page is from") && one("main").className === "stale");
    await fetch("go");
    await until("goes on by itself", () => text("#link") === "live" && one("main").className === "");

    const timeout = AbortSignal.timeout;
    AbortSignal.timeout = () => timeout.call(AbortSignal, 1000);
    await fetch("hang");
    refresh();
    await until("does not wait for ever", () => text("#link").includes("does not respond"));
    await fetch("go");
    AbortSignal.timeout = timeout;
    await until("goes on then, too", () => text("#link") === "live");

    uses.set("gone", []);
    refresh();
    await until("forgets proxies that are gone", () => !uses.has("gone"));
    await api("proxies", { method: "POST", json: { id: "constructor", url: "http://127.0.0.1:1" } });
    await until("shows a proxy whatever its name", () => row("constructor").querySelector(".band") && row("constructor").cells.length === 10);
    const figure = document.body.appendChild(document.createElement("figure"));
    stackedBars(figure, [{ at: 60000, first: 1 }, { begin: 60000, at: 66000, first: 1 }], { kinds: ["first"], from: 0, to: 66000, step: 60000, labels: [] });
    await until("draws bars as wide as their time", () => greenPixels(figure.querySelector("canvas")) > 20000);
    figure.remove();
    const body = document.createElement("tbody");
    rows(body, [...Array(120).keys()], String, n => [n]);
    if (body.rows.length !== 50) throw new Error("rows at once: " + body.rows.length);
    await until("draws many rows in several frames", () => body.rows.length === 120 && [...body.rows].every((tr, i) => tr.dataset.key === String(i)));
    if (dialogs.length) throw new Error("dialogs: " + dialogs);
  }

  const report = { Done: done };
  try {
    await visit();
  } catch (e) {
    report.Error = e.message;
  }
  fetch("report", { method: "POST", body: JSON.stringify(report) });
})();
