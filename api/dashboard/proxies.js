// The list of proxies. Only the visible rows are requested and drawn, so that pools of any size can be scrolled.
import { api, button, gatewayNow, poll, showError } from "./api.js";
import { $, address, clock, el, link, number, percent, pill, right, rows, span } from "./dom.js";
import { perform } from "./many.js";
import { showProxy } from "./proxy.js";
import { transitions, began } from "./events.js";

const rowHeight = 32, // px, as in dashboard.css
  margin = 10, // rows above and below the visible ones that are drawn as well
  bandSeconds = 600;
const emptyPool =
  "The pool is empty: add proxies with serve --proxies FILE, [[proxies]] in koanf.toml, or the form below";

const box = $("list"),
  filter = $("find");
let first = 0, // index of the first row that is drawn
  total = 0; // proxies that match the filter
export let uses = new Map(); // of each proxy that is drawn: [time, uses] over the last minute
const selected = new Set(); // ids

const conditions = ["q", "state", "region", "vendor", "reason"];

// filterQuery returns the parameters that select proxies. They are kept in the URL.
export function filterQuery() {
  const p = new URLSearchParams();
  for (const name of conditions) if (address.get(name)) p.set(name, address.get(name));
  return p;
}

// query returns the parameters of the list, without the page.
function query() {
  const p = filterQuery();
  if (address.get("sort")) p.set("sort", address.get("sort"));
  return p;
}

// pageQuery returns the parameters of the visible rows.
function pageQuery() {
  const visible = Math.ceil(Math.max(box.clientHeight, 10 * rowHeight) / rowHeight);
  first = Math.max(0, Math.floor(box.scrollTop / rowHeight) - margin);
  const p = query();
  p.set("limit", visible + 2 * margin);
  if (first) p.set("cursor", first);
  return p;
}

const round = poll(
  1000,
  () => {
    const p = pageQuery();
    return ["proxies?" + p, "circuit-breakers?" + p];
  },
  draw,
);

function draw(p, b) {
  const breakers = new Map(b.circuit_breakers.map(x => [x.proxy_id, x])),
    now = Date.now();
  total = p.total;
  const current = new Map();
  for (const x of p.proxies) {
    const past = (uses.get(x.id) || []).filter(([at, n]) => at > now - 60000 && n <= x.uses);
    past.push([now, x.uses]);
    current.set(x.id, past);
  }
  uses = current;
  rows(
    $("proxies"),
    p.proxies,
    x => x.id,
    x => cells(x, breakers.get(x.id) || { state: x.state }),
  );
  $("above").style.height = first * rowHeight + "px";
  $("below").style.height = Math.max(0, total - first - p.proxies.length) * rowHeight + "px";
  const some = filterQuery().size > 0;
  $("more").textContent = total
    ? number.format(total) + (some ? " found" : total === 1 ? " proxy" : " proxies")
    : some
      ? "no proxy matches"
      : emptyPool;
  showSelection();
}

function cells(x, breaker) {
  const wait = breaker.retry_in_seconds != null ? " " + Math.ceil(breaker.retry_in_seconds) + " s" : "";
  const status = x.draining ? "draining" : x.banned_until ? "banned" : breaker.state;
  const past = uses.get(x.id);
  const [[since, least]] = past,
    perSecond = (1000 * (x.uses - least)) / Math.max(1000, Date.now() - since);
  return [
    [checkbox(x.id), selected.has(x.id)],
    [[link(x.id, () => showProxy(x.id), x.url), " ", el("small", {}, x.region)], x.id + x.region],
    [pill(status, status.replace("_", "-") + wait, failures(breaker)), status + wait + breaker.failure_count],
    [band(x.id, breaker.state, gatewayNow()), bandVersion(x.id, breaker.state)],
    [[bar(x.success_rate, x.samples), x.samples ? percent(x.success_rate) : "–"], x.samples + " " + x.success_rate],
    right(x.avg_latency ? span(x.avg_latency) : "–"),
    right(number.format(x.in_flight)),
    right(perSecond ? perSecond.toFixed(1) : "–"),
    right(number.format(x.uses)),
    [button("reset", "circuit-breakers/" + encodeURIComponent(x.id) + "/reset", { method: "POST" }), "reset"],
  ];
}

const failures = b =>
  b.failure_count === undefined
    ? undefined
    : `${b.failure_count} failures within ${b.window_duration} s; the threshold is ${b.failure_threshold}`;

// bar draws the share of successful attempts among the last samples.
function bar(part, samples) {
  const b = el(
    "span",
    { class: "bar", title: samples ? percent(part) + " of the last " + samples + " attempts" : "no attempts yet" },
    el("i"),
  );
  b.firstChild.style.width = (samples ? 100 * part : 0) + "%";
  return b;
}

// periods returns the states of a breaker between two times, oldest first, from its transitions and its state now.
function periods(list, stateNow, from, to) {
  const out = [];
  let start = from,
    before = list.length ? list[0].from_state : stateNow;
  for (const e of list) {
    const at = Date.parse(e.timestamp);
    if (at > start) {
      out.push({ state: before, from: start, to: at });
      start = at;
    }
    before = e.to_state;
  }
  out.push({ state: stateNow, from: start, to });
  return out;
}

// A band moves by less than a pixel in four seconds.
const bandVersion = (id, state) => state + (transitions.get(id)?.length ?? 0) + Math.floor(Date.now() / 4000);

// band draws the states of a breaker over the last minutes.
function band(id, stateNow, now) {
  const from = now - bandSeconds * 1000,
    scale = 144 / (bandSeconds * 1000);
  const past = periods(transitions.get(id) || [], stateNow, Math.max(from, began()), now);
  const label = "open " + past.filter(s => s.state === "open").length + " times in the last 10 minutes";
  const attributes = {
    class: "band",
    viewBox: "0 0 144 16",
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": label,
  };
  const bars = past.map(s => {
    const title = el("title", {}, s.state + " from " + clock(s.from) + " to " + clock(s.to));
    return el(
      "rect",
      { class: s.state, x: (s.from - from) * scale, width: Math.max((s.to - s.from) * scale, 1), height: 16 },
      title,
    );
  });
  return el("svg", attributes, el("rect", { class: "none", width: 144, height: 16 }), ...bars);
}

// --- Scrolling, searching and sorting --------------------------------------------

let frame = 0;
box.onscroll = () => {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    const top = Math.floor(box.scrollTop / rowHeight),
      bottom = Math.min(total, top + Math.ceil(box.clientHeight / rowHeight));
    if (top < first || bottom > first + $("proxies").rows.length) round();
  });
};

function applyFilter() {
  clearSelection(); // no action on proxies that are not shown
  box.scrollTop = 0;
  document.dispatchEvent(new Event("filter"));
  round();
}

// filterBy replaces some conditions of the filter and shows the list.
export function filterBy(values) {
  address.set(values);
  showFilter();
  applyFilter();
  filter.scrollIntoView({ block: "nearest" });
}

// showFilter writes the filter of the URL into the form.
function showFilter() {
  for (const name of conditions) filter.elements[name].value = address.get(name);
}
showFilter();

let typing;
for (const name of conditions) {
  filter.elements[name].oninput = () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      address.set(Object.fromEntries(conditions.map(n => [n, filter.elements[n].value.trim()])));
      applyFilter();
    }, 200);
  };
}
$("clear").onclick = () => filterBy(Object.fromEntries(conditions.map(n => [n, ""])));
filter.onsubmit = e => e.preventDefault();

for (const b of document.querySelectorAll("th button[value]")) {
  b.onclick = () => {
    const now = address.get("sort");
    address.set({ sort: now === b.value ? "-" + b.value : now === "-" + b.value ? "" : b.value });
    showOrder();
    applyFilter();
  };
}

function showOrder() {
  const sort = address.get("sort");
  for (const b of document.querySelectorAll("th button[value]")) {
    const order = sort === b.value ? "ascending" : sort === "-" + b.value ? "descending" : "none";
    b.parentElement.setAttribute("aria-sort", order);
  }
}
showOrder();

// --- Many proxies at once ---------------------------------------------------------

function checkbox(id) {
  const change = e => {
    e.target.checked ? selected.add(id) : selected.delete(id);
    showSelection();
  };
  return el("input", { type: "checkbox", class: "admin", checked: selected.has(id) && "", onchange: change, "aria-label": "select " + id });
}

function showSelection() {
  $("selection").hidden = selected.size === 0;
  $("selected").textContent = number.format(selected.size) + " selected";
  $("selectall").hidden = selected.size >= total;
  $("selectall").textContent = "select all " + number.format(total);
}

// allMatching calls onPage with each page of the proxies that match the filter.
export async function allMatching(onPage) {
  const p = query();
  p.set("sort", p.get("sort") || "id");
  p.set("limit", 1000);
  for (let cursor = ""; cursor !== null; ) {
    if (cursor) p.set("cursor", cursor);
    const page = await api("proxies?" + p);
    onPage(page.proxies);
    cursor = page.next_cursor;
  }
}

$("selectall").onclick = async () => {
  try {
    await allMatching(list => list.forEach(x => selected.add(x.id)));
  } catch (e) {
    showError("select all: " + e.message);
  }
  for (const b of $("proxies").querySelectorAll("input")) b.checked = true;
  showSelection();
};

function clearSelection() {
  selected.clear();
  for (const b of $("proxies").querySelectorAll("input")) b.checked = false;
  showSelection();
}
$("selectnone").onclick = clearSelection;

for (const b of $("selection").querySelectorAll("button[value]")) {
  b.onclick = async () => {
    if (await perform(b.value, [...selected], text => ($("selected").textContent = text))) clearSelection();
  };
}
