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
    if (shown()) return what && done.push(what);
    await new Promise(next => setTimeout(next, 10));
  }
  throw new Error("never: " + what + "\n" + one("#more").textContent + " " + keys());
}

async function visit() {
  await until("draws the visible rows only", () => one("#more").textContent === "5,000 proxies" && keys()[0] === "p0000" && keys().length < 100);
  await scrollSlowly();
  await keepFocus();
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

// scrollSlowly scrolls by a few rows at a time, and counts the changes of the page. Row elements are used again, and only
// those that come into view move.
async function scrollSlowly() {
  const steps = 60,
    rowsAStep = 5,
    elements = new Set(one("#proxies").rows);
  let moves = 0,
    added = 0; // elements within rows
  const count = changes => {
    for (const { target, addedNodes } of changes) {
      for (const node of addedNodes) {
        if (target === one("#proxies")) {
          elements.add(node);
          moves++;
        } else if (node instanceof Element) added++;
      }
    }
  };
  const observer = new MutationObserver(count);
  observer.observe(one("#proxies"), { childList: true, subtree: true });
  for (let top = 0; top <= steps * rowsAStep; top += rowsAStep) {
    one("#list").scrollTop = 32 * top;
    await until("", () => keys().includes("p" + String(top + 9).padStart(4, "0")));
  }
  await until("", () => keys().join() === keys().sort().join());
  count(observer.takeRecords());
  observer.disconnect();
  const seen = 50; // rows that exist at a time, and more
  if (elements.size > seen || moves > steps * rowsAStep + seen || added)
    throw new Error(`a scroll by ${steps * rowsAStep} rows made ${elements.size} rows, moved ${moves} and added ${added} elements to them`);
  done.push("uses the elements of rows again");
  await until("arranges the rows after a scroll", inOrder);
}

// inOrder reports whether the rows are in the order of the list, and say so to screen readers.
function inOrder() {
  const indices = [...one("#proxies").rows].map(tr => +tr.ariaRowIndex);
  return indices.every((n, i) => (!i || n > indices[i - 1]) && keys()[i] === "p" + String(n - 2).padStart(4, "0"));
}

// keepFocus scrolls a row with the focus out of the view and back.
async function keepFocus() {
  const key = keys()[20],
    focused = one(`tr[data-key=${key}] button:last-child`),
    top = one("#list").scrollTop;
  focused.focus({ preventScroll: true });
  one("#list").scrollTop = 0;
  await until("scrolls back with a focus", () => keys()[0] === "p0000" && inOrder() && keys().length < 50);
  one("#list").scrollTop = top;
  await until("keeps the focus", () => keys().length > 25 && inOrder() && document.activeElement === focused && focused.closest("tr").dataset.key === key);
  focused.blur();
}

const report = { Done: done };
try {
  await visit();
} catch (e) {
  report.Error = e.message;
}
fetch("report", { method: "POST", body: JSON.stringify(report) });
