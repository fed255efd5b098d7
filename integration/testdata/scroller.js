// What somebody does on the dashboard of 5,000 proxies, in the page itself: TestTheDashboardOfALargePool adds it. Each
// step waits for what the page should show, and reports if it does not.
const done = [];
const one = selector => document.querySelector(selector);
const keys = () => [...one("#proxies").rows].map(tr => tr.dataset.key);
const type = (input, value) => {
  input.value = value;
  input.dispatchEvent(new Event("input", { bubbles: true })); // as a keyboard does
};

async function until(what, shown) {
  for (const end = Date.now() + 60000; Date.now() < end; ) {
    if (shown()) return done.push(what);
    await new Promise(next => setTimeout(next, 50));
  }
  throw new Error("never: " + what + "\n" + one("#more").textContent + " " + keys());
}

async function visit() {
  await until("draws the visible rows only", () => one("#more").textContent === "5,000 proxies" && keys()[0] === "p0000" && keys().length < 100);
  one("#list").scrollTop = one("#list").scrollHeight;
  await until("scrolls to the end", () => keys().at(-1) === "p4999" && keys().length < 100);
  type(one("#find [name=q]"), "p12");
  await until("searches", () => one("#more").textContent === "100 found" && keys()[0] === "p1200");
  type(one("#find [name=region]"), "eu");
  await until("filters by region", () => one("#more").textContent === "50 found" && keys()[0] === "p1201");
  one("th button[value=id]").click();
  one("th button[value=id]").click();
  await until("sorts downwards", () => keys()[0] === "p1299" && location.hash === "#q=p12&region=eu&sort=-id");
  one("#selectall").click();
  await until("selects what matches", () => one("#selected").textContent === "50 selected");
  one("#proxies input").click();
  await until("selects one less", () => one("#selected").textContent === "49 selected");
}

const report = { Done: done };
try {
  await visit();
} catch (e) {
  report.Error = e.message;
}
fetch("report", { method: "POST", body: JSON.stringify(report) });
