// What somebody does on the dashboard, in the page itself: TestTheDashboard adds
// it. Each step waits for what the page should show, and reports if it does not.
"use strict";
(async () => {
  const done = [], dialogs = [], clock = Date.now;
  Date.now = () => clock() + 3600000; // another than the gateway's
  window.prompt = window.alert = text => { dialogs.push(text); return null; };
  const one = selector => document.querySelector(selector);
  const text = selector => one(selector).textContent.trim();
  const row = key => one(`tr[data-key="${key}"]`);
  const press = (key, what) => [...row(key).querySelectorAll("button")].find(b => b.textContent === what).click();
  const enter = key => { one("#login input").value = key; one("#login").requestSubmit(); };
  const change = (name, value) => {
    const input = one(`#change [name=${name}]`);
    input.value = value;
    input.dispatchEvent(new Event("input", { bubbles: true })); // as a keyboard does
  };

  async function until(what, shown) {
    for (const end = Date.now() + 20000; Date.now() < end;) {
      let is = false;
      try { is = shown(); } catch {} // what it looks at is not there yet
      if (is) return done.push(what);
      await new Promise(next => setTimeout(next, 50));
    }
    throw new Error("never: " + what + "\n" + document.body.innerText);
  }

  async function visit() {
    await until("asks for a key", () => !one("#login").hidden && one("main").hidden);
    enter("not-the-key");
    await until("says that it is another's", () => text("#login [role=alert]") === "the API does not accept this key");
    enter("reads-only");
    await until("shows the proxies", () => one("#login").hidden && !one("main").hidden && text("#link") === "live" && one("#proxies").rows.length === 3 && row("random"));
    const here = (await api("config")).gateway;
    await until("says how to use it", () => text("#curl") === "curl -i -x http://" + here + " http://example.com/");
    await until("fits a narrow window", () => document.documentElement.scrollWidth <= innerWidth);
    press("random", "use for first");
    await until("says why not", () => text("#alert").includes("role admin"));
    state.key = "may-do-all"; // as the page calls it

    const reset = row("F1").querySelector("button");
    reset.focus();
    await fetch("traffic");
    await until("counts the requests", () => text("#tiles").includes("9requests12 attempts") && text("#tiles").includes("3successful after a retry"));
    await until("shows the open breaker", () => row("F1").querySelector(".pill").textContent.startsWith("open ") && text("#tiles").includes("2 of 3breakers closed"));
    await until("draws how long it is open", () => row("F1").querySelector(".band .open").getAttribute("width") < 72 && !row("F2").querySelector(".band .open"));
    await until("tells of the event", () => [...one("#transitions").rows[0].cells].slice(1).map(cell => cell.textContent).join() === "F1,closed → open,threshold");
    await until("shows a retried request", () => /^F1 503,F[23] 200$/.test([...one("#requests").rows[0].querySelectorAll(".step")].map(step => step.textContent).join()));
    await until("draws the traffic", () => one("#chart .first") && one("#chart .retried") && !one("#chart .failed"));
    if (document.activeElement !== reset) throw new Error("a button loses its focus when the page is brought up to date");
    reset.click();
    await until("closes the breaker", () => row("F1").querySelector(".pill").textContent === "closed");
    press("random", "use for first");
    await until("shows what came of it", () => row("random").cells[4].textContent === "first" && one("#alert").hidden);

    const form = new FormData(); // a module that states its settings and logs a line
    form.append("module", await (await fetch("module")).blob());
    form.append("name", "talker");
    await api("plugins", { method: "POST", body: form });
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
    change("retry_status_codes", "503, 429");
    one("#change").requestSubmit();
    await until("puts a policy in force", () => text("#change [role=status]").startsWith("applied at") && document.querySelectorAll("#attempts circle").length === 4);

    const reread = what => { refresh(); return text("#reload").includes(what); };
    await fetch("edit?max_attempts=11");
    await until("tells that the configuration was not reloaded", () => reread("koanf.toml:2: retry.max_attempts: must be 1 to 10"));
    await fetch("edit?max_attempts=3");
    await until("tells that it was", () => reread("") && one("#reload").hidden);

    await fetch("stop");
    await until("says that nobody answers", () => text("#link").includes("does not respond; this page is from") && one("main").className === "stale");
    await fetch("go");
    await until("goes on by itself", () => text("#link") === "live" && one("main").className === "");

    const timeout = AbortSignal.timeout;
    AbortSignal.timeout = () => timeout.call(AbortSignal, 1000);
    await fetch("hang");
    await until("does not wait for ever", () => text("#link").includes("does not respond"));
    await fetch("go");
    AbortSignal.timeout = timeout;
    await until("goes on then, too", () => text("#link") === "live");

    uses.set("gone", []);
    await until("forgets proxies that are gone", () => !uses.has("gone"));
    await api("proxies", { method: "POST", json: { id: "constructor", url: "http://127.0.0.1:1" } });
    await until("shows a proxy whatever its name", () => row("constructor").querySelector(".band") && row("constructor").cells.length === 9);
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
