// The dashboard: what the REST API tells, asked for again and again, and drawn.
"use strict";

const $ = id => document.getElementById(id);
const state = { key: sessionStorage.getItem("key") || "", filter: "retried", began: Infinity, events: new Map(), backoffs: [], ahead: 0, edited: false };

// --- The API ---------------------------------------------------------------

// An answer that has not come after so many milliseconds does not come: the
// machine may be gone, or this one have slept.
const patience = 30000;

async function api(path, { method = "GET", json, body } = {}) {
  const headers = {}, key = state.key;
  if (key) headers.Authorization = "Bearer " + key;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  const signal = method === "GET" ? AbortSignal.timeout(patience) : undefined; // an upload takes its time
  const answer = await fetch("api/v1/" + path, { method, headers, signal, body: json === undefined ? body : JSON.stringify(json) });
  const ahead = Date.parse(answer.headers.get("Date")) - Date.now();
  state.ahead = Math.abs(ahead) > 2000 ? ahead : 0; // Date has whole seconds
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  if (answer.status === 401) {
    if (key === state.key) lock(true); // else it has been asked for meanwhile
    throw new Error("this is none of its keys");
  }
  throw new Error((await answer.json().catch(() => ({}))).message || "the gateway answers " + answer.status);
}

// there is the time at the gateway, whose clock need not be this machine's.
const there = () => Date.now() + state.ahead;

// lock hides everything but the form that asks for a key, or shows it again.
function lock(on) {
  if (on && $("login").hidden) setTimeout(() => $("login").elements.key.focus());
  $("login").hidden = !on;
  document.querySelector("main").hidden = on;
  if (on) linked("signed out");
}

const rounds = [];

// poll calls what with the answers to paths, again every ms milliseconds while
// somebody looks who may.
function poll(ms, paths, what) {
  let timer, busy = false;
  const round = async () => {
    if (busy) return;
    busy = true;
    clearTimeout(timer);
    let wait = ms;
    if (!document.hidden && $("login").hidden) {
      try {
        wait = what(...await Promise.all(paths().map(p => api(p)))) || ms;
        linked("");
      } catch (e) {
        if ($("login").hidden) linked(e instanceof TypeError || e.name === "TimeoutError" ? "the gateway does not answer" : e.message);
      }
    }
    timer = setTimeout(round, wait);
    busy = false;
  };
  rounds.push(round);
  round();
}

// linked says whether what is shown is of now.
function linked(trouble) {
  if (!trouble) state.fresh = Date.now();
  const text = !trouble ? "live" : trouble + (state.fresh ? "; what is below is of " + clock(state.fresh) : "");
  document.querySelector("main").classList.toggle("stale", trouble !== "");
  $("link").className = "link " + (trouble ? "gone" : "live");
  if ($("link").textContent !== text) $("link").textContent = text;
}

// refresh asks for everything now.
function refresh() {
  for (const round of rounds) round();
}

// act does something on a click, shows what came of it and tells what went
// wrong, if it did.
async function act(button, path, options) {
  button.disabled = true;
  try {
    await api(path, options);
    complain("");
  } catch (e) {
    complain(button.textContent + ": " + e.message);
  }
  button.disabled = false;
  refresh();
}

function complain(text) {
  $("alert").textContent = text;
  $("alert").hidden = !text;
}

$("login").onsubmit = async e => {
  e.preventDefault();
  state.key = e.target.elements.key.value;
  const said = e.target.querySelector("[role=alert]");
  try {
    await api("retry/policy");
    sessionStorage.setItem("key", state.key);
    said.textContent = "";
    e.target.reset();
    lock(false);
    refresh();
  } catch (failure) {
    said.textContent = failure.message;
  }
};

// --- Drawing ---------------------------------------------------------------

function el(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "rect", "line", "circle", "text", "title"].includes(tag);
  const e = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") e.onclick = value;
    else if (value !== undefined && value !== false) e.setAttribute(name, value);
  }
  e.append(...children);
  return e;
}

function button(text, path, options, sure) {
  const clicked = e => { if (!sure || confirm(sure)) act(e.target, path, options); };
  return el("button", { type: "button", onclick: clicked }, text);
}

// cell fills a table's cell if its content is not there yet, so that what has
// the focus or is being read stays where it is.
function cell(td, content, version = content) {
  version = String(version);
  if (td.dataset.version === version) return;
  td.dataset.version = version;
  td.replaceChildren(...[content].flat());
}

// rows brings a table's body in line with items: one row each, known by key,
// with as many cells as fill fills.
function rows(body, items, key, fill) {
  const known = new Map([...body.rows].map(tr => [tr.dataset.key, tr]));
  let at = body.firstElementChild;
  for (const item of items) {
    const k = key(item);
    let tr = known.get(k);
    known.delete(k);
    if (!tr) {
      tr = el("tr");
      tr.dataset.key = k;
    }
    const cells = fill(item, tr);
    cells.forEach((c, i) => {
      const td = tr.cells[i] || tr.appendChild(el("td"));
      Array.isArray(c) ? cell(td, c[0], c[1]) : cell(td, c);
    });
    if (tr === at) at = at.nextElementSibling;
    else body.insertBefore(tr, at);
  }
  for (const tr of known.values()) tr.remove();
}

const number = new Intl.NumberFormat("en");
const percent = part => (100 * part).toFixed(part > 0.9995 || part === 0 ? 0 : 1) + " %";
const clock = time => new Date(time).toLocaleTimeString([], { hour12: false });

function span(seconds) {
  if (seconds < 0.001) return Math.round(seconds * 1e6) + " µs";
  if (seconds < 1) return (seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0) + " ms";
  const whole = Math.round(seconds);
  return whole < 60 ? +seconds.toFixed(seconds < 10 ? 2 : 1) + " s" : Math.floor(whole / 60) + " min " + whole % 60 + " s";
}

// --- Totals and the chart ---------------------------------------------------

const chartSeconds = 120;
let before, samples = [];

// counts are what the chart shows, since the start.
function counts(summary) {
  const by = summary.success_by_attempt, first = by["0"] || 0;
  const ok = Object.values(by).reduce((a, b) => a + b, 0);
  return { first, saved: ok - first, lost: summary.total_requests - ok };
}

poll(1000, () => ["metrics/retries"], m => {
  const now = Date.now(), c = counts(m), ok = c.first + c.saved;
  if (before && now - before.at < 5000 && m.total_requests >= before.total) {
    const per = 1000 / (now - before.at);
    samples.push({ at: now, first: (c.first - before.first) * per, saved: (c.saved - before.saved) * per, lost: (c.lost - before.lost) * per });
  }
  before = { ...c, at: now, total: m.total_requests };
  samples = samples.filter(s => s.at > now - chartSeconds * 1000);
  const last = samples[samples.length - 1];
  tiles("requests", [
    [last ? number.format(Math.round(last.first + last.saved + last.lost)) : "–", "requests a second", ""],
    [number.format(m.total_requests), "requests", number.format(m.total_attempts) + " attempts"],
    [m.total_requests ? percent(ok / m.total_requests) : "–", "delivered", number.format(c.lost) + " were not"],
    [number.format(c.saved), "saved by a retry", number.format(m.total_retries) + " retries, " + span(m.retry_latency_seconds_total) + " of waiting"],
  ]);
  draw(now);
});

function tiles(group, list) {
  const old = [...$("tiles").querySelectorAll("." + group)];
  list.forEach(([value, name, more], i) => {
    const tile = old[i] || $("tiles").appendChild(el("div", { class: "tile " + group }, el("b"), el("span"), el("small")));
    [value, name, more].forEach((text, n) => { if (tile.children[n].textContent !== text) tile.children[n].textContent = text; });
  });
}

// ceiling is the next of 1, 2, 5, 10, 20, ...
function ceiling(n) {
  const ten = 10 ** Math.floor(Math.log10(Math.max(n, 1)));
  return [1, 2, 5, 10].map(f => f * ten).find(x => x >= n);
}

function draw(now) {
  const svg = $("chart"), width = svg.clientWidth || 800, height = 150, left = 38, bottom = 18, top = 8;
  const high = height - bottom - top, most = ceiling(Math.max(1, ...samples.map(s => s.first + s.saved + s.lost)));
  const y = n => top + high * (1 - n / most), x = at => width - (now - at) / (chartSeconds * 1000) * (width - left);
  const lines = [0, 0.5, 1].flatMap(part => [
    el("line", { x1: left, x2: width, y1: y(part * most), y2: y(part * most) }),
    el("text", { x: left - 6, y: y(part * most) + 4, "text-anchor": "end" }, number.format(part * most)),
  ]);
  const times = [120, 90, 60, 30].map(s => el("text", { x: x(now - s * 1000) + (s === 120 ? 2 : 0), y: height - 4, "text-anchor": s === 120 ? "start" : "middle" }, "−" + s + " s"));
  times.push(el("text", { x: width, y: height - 4, "text-anchor": "end" }, "now"));
  const wide = Math.max(1, (width - left) / chartSeconds - 1);
  const bars = samples.map(s => {
    const g = el("g", {}, el("title", {}, clock(s.at) + ": " + ["first", "saved", "lost"].map(k => Math.round(s[k]) + " " + { first: "at the first try", saved: "saved by a retry", lost: "not delivered" }[k]).join(", ")));
    let sum = 0;
    for (const kind of ["first", "saved", "lost"]) {
      if (s[kind] <= 0) continue;
      g.append(el("rect", { class: kind, x: x(s.at) - wide, width: wide, y: y(sum + s[kind]), height: high * s[kind] / most }));
      sum += s[kind];
    }
    return g;
  });
  svg.replaceChildren(...lines, ...times, ...bars);
}

// --- Proxies and their breakers ----------------------------------------------

const bandSeconds = 600, mostRows = 200;
let uses = new Map(); // by proxy that is shown: [time, uses], a minute of them

poll(1000, () => ["proxies", "circuit-breakers"], (p, b) => {
  const breakers = Object.fromEntries(b.circuit_breakers.map(x => [x.proxy_id, x]));
  const calm = x => (breakers[x.id]?.state ?? x.state) === "closed";
  for (const x of b.circuit_breakers) state.began = Math.min(state.began, Date.parse(x.last_state_change));
  // Of a large pool those that need a look come first, and the rest is counted.
  const pool = p.proxies.length > mostRows ? p.proxies.filter(x => !calm(x)).concat(p.proxies.filter(calm)) : p.proxies;
  const shown = pool.slice(0, mostRows), now = Date.now();
  let all = 0;
  const share = new Map(), known = new Map();
  for (const x of shown) {
    const past = (uses.get(x.id) || []).filter(([at, n]) => at > now - 60000 && n <= x.uses);
    past.push([now, x.uses]);
    known.set(x.id, past);
    share.set(x.id, x.uses - past[0][1]);
    all += share.get(x.id);
  }
  uses = known;
  rows($("proxies"), shown, x => x.id, x => {
    const breaker = breakers[x.id] || { state: x.state };
    const wait = breaker.retry_in_seconds != null ? " " + Math.ceil(breaker.retry_in_seconds) + " s" : "";
    const is = x.draining ? "draining" : breaker.state;
    return [
      [[x.id + " ", el("small", {}, x.region)], x.id + x.region],
      [el("span", { class: "pill " + is, title: breaker.failure_count + " failures of " + breaker.failure_threshold + " within " + breaker.window_duration + " s" }, is.replace("_", "-") + wait), is + wait + breaker.failure_count],
      [band(x.id, breaker.state, there()), now],
      [[bar(x.success_rate, x.samples), x.samples ? percent(x.success_rate) : "–"], x.samples + " " + x.success_rate],
      right(x.avg_latency ? span(x.avg_latency) : "–"),
      right(number.format(x.in_flight)),
      right(all ? percent(share.get(x.id) / all) : "–"),
      right(number.format(x.uses)),
      [button("reset", "circuit-breakers/" + encodeURIComponent(x.id) + "/reset", { method: "POST" }), "reset"],
    ];
  });
  $("more").textContent = pool.length > mostRows ? "and " + number.format(pool.length - mostRows) + " more" : pool.length ? "" : "no proxies yet: serve --proxies FILE, [[proxies]] in koanf.toml, or POST /api/v1/proxies";
  const closed = p.proxies.filter(calm).length;
  tiles("service", [[number.format(closed) + " of " + number.format(p.proxies.length), "proxies in service", number.format(p.proxies.length - closed) + " left alone or on probation"]]);
  return p.proxies.length > 2000 ? 10000 : 0;
});

const right = text => [el("div", { class: "n" }, text), text];

function bar(part, known) {
  const b = el("span", { class: "bar", title: known ? percent(part) + " of the last " + known : "not used yet" }, el("i"));
  b.firstChild.style.width = (known ? 100 * part : 0) + "%";
  return b;
}

// stretches are the states a breaker was in from one moment to another, oldest
// first, by its events and the state it is in now.
function stretches(events, is, from, to) {
  const list = [];
  let start = from, was = events.length ? events[0].from_state : is;
  for (const e of events) {
    const at = Date.parse(e.timestamp);
    if (at > start) {
      list.push({ state: was, from: start, to: at });
      start = at;
    }
    was = e.to_state;
  }
  list.push({ state: is, from: start, to });
  return list;
}

function band(id, is, now) {
  const from = now - bandSeconds * 1000, scale = 144 / (bandSeconds * 1000);
  const past = stretches(state.events.get(id) || [], is, Math.max(from, state.began), now);
  return el("svg", { class: "band", viewBox: "0 0 144 16", preserveAspectRatio: "none", role: "img", "aria-label": past.filter(s => s.state === "open").length + " times open in the last 10 minutes" },
    el("rect", { class: "none", width: 144, height: 16 }), ...past.map(s => el("rect", { class: s.state, x: (s.from - from) * scale, width: Math.max((s.to - s.from) * scale, 1), height: 16 }, el("title", {}, s.state + " from " + clock(s.from) + " to " + clock(s.to)))));
}

poll(2000, () => ["circuit-breakers/metrics?hours=1"], m => {
  const from = there() - bandSeconds * 1000;
  state.events = new Map();
  for (const e of m.events) {
    state.began = Math.min(state.began, Date.parse(e.timestamp));
    if (Date.parse(e.timestamp) <= from) continue;
    if (!state.events.has(e.proxy_id)) state.events.set(e.proxy_id, []);
    state.events.get(e.proxy_id).push(e);
  }
  const latest = m.events.slice(-12).reverse();
  rows($("events"), latest, e => e.timestamp + e.proxy_id + e.to_state, e =>
    [clock(e.timestamp), e.proxy_id, [[e.from_state + " → ", el("span", { class: "pill " + e.to_state }, e.to_state.replace("_", "-"))], e.to_state], [el("span", { title: e.why }, e.reason.replace("_", " ") + (e.why ? ": " + e.why : "")), e.reason]]);
  $("noevents").hidden = latest.length > 0;
});

// --- Requests -----------------------------------------------------------------

const keep = 1000, shownRequests = 15;
let requests = new Map();

const running = r => r.state !== "done";
const filters = {
  all: () => true,
  retried: r => r.attempts.length > 1 || r.current_attempt > 0,
  failed: r => !running(r) && r.outcome !== "success",
  running,
};

poll(1000, () => ["requests?limit=200"], list => {
  for (const [id, r] of requests) if (running(r)) requests.delete(id);
  for (const r of list.requests) requests.set(r.id, r);
  const sorted = [...requests.values()].sort((a, b) => b.started_at.localeCompare(a.started_at)).slice(0, keep);
  requests = new Map(sorted.map(r => [r.id, r]));
  showRequests();
});

function showRequests() {
  const now = there(), list = [...requests.values()].filter(filters[state.filter]).slice(0, shownRequests);
  rows($("requests"), list, r => r.id, r => {
    const took = ((running(r) ? now : Date.parse(r.finished_at)) - Date.parse(r.started_at)) / 1000;
    return [
      clock(r.started_at),
      [r.method + " " + r.host, r.id],
      [steps(r, now), running(r) ? now : "done"],
      right(span(Math.max(took, 0))),
      [el("span", { class: "pill " + (running(r) ? "half_open" : r.outcome === "success" ? "closed" : r.outcome === "cancelled" ? "" : "open") }, running(r) ? r.state : r.status || r.outcome), r.state + r.outcome],
    ];
  });
  for (const tr of $("requests").rows) tr.cells[2].className = "steps";
  $("norequests").textContent = list.length ? "" : !requests.size ? "none yet" : { all: "none yet", retried: "none of the latest " + requests.size + " needed a retry", failed: "all of the latest " + requests.size + " were delivered", running: "none is under way" }[state.filter];
}

// steps draws a request's attempts in their order, with the waits between.
function steps(r, now) {
  const list = [];
  r.attempts.forEach((a, i) => {
    if (i) list.push(el("span", { class: "gap" }, "→ " + (a.delay_before ? span(a.delay_before) + " →" : "")));
    const what = a.status_code || (a.error_message || a.outcome).split(": ").pop();
    list.push(el("span", { class: "step " + a.outcome, title: (a.error_message || a.outcome) + ", after " + span(a.latency) }, a.proxy_id + " " + what));
  });
  if (running(r) && r.attempts.length) list.push(el("span", { class: "gap" }, "→"));
  if (r.state === "waiting") {
    list.push(el("span", { class: "step running" }, "next try in " + span(Math.max(0, (Date.parse(r.next_retry_time) - now) / 1000))));
  } else if (running(r)) {
    list.push(el("span", { class: "step running" }, (r.proxy_id || "") + " …"));
  }
  return list.length ? list : [el("span", { class: "gap" }, r.outcome === "success" ? "" : (r.outcome || "").replaceAll("_", " "))];
}

for (const b of $("filter").children) {
  b.onclick = () => {
    state.filter = b.value;
    for (const other of $("filter").children) other.setAttribute("aria-pressed", other === b);
    showRequests();
  };
}

// --- The policy ---------------------------------------------------------------

poll(3000, () => ["retry/policy"], showPolicy);

function showPolicy(p) {
  $("source").textContent = p.source === "file" ? "from the file" : "set while it runs, over the file's";
  const statuses = p.retry_status_codes.length ? "statuses " + p.retry_status_codes.join(", ") : "no status";
  $("policy").textContent = [
    p.max_attempts === 1 ? "one try" : "up to " + p.max_attempts + " tries",
    "connection errors and " + statuses + " are retried" + (p.retry_non_idempotent ? ", POST, PUT and PATCH as well" : ""),
    "backoff " + p.backoff_strategy + (p.jitter ? " with jitter" : "") + (p.failover_delay === null ? "" : ", but " + span(p.failover_delay) + " before another proxy"),
    p.timeout === null ? "no total timeout" : "at most " + span(p.timeout) + " in all",
  ].join(" · ");
  drawTries(p);
  if (!state.edited && !$("change").contains(document.activeElement)) fillPolicy(p);
}

// waits are the delays between the tries of a request that keeps failing, as
// the built-in strategies have them without jitter; null for another strategy.
function waits(p) {
  const delay = { exponential: n => p.base_delay * p.multiplier ** n, linear: n => p.base_delay * (n + 1), fixed: () => p.base_delay }[p.backoff_strategy];
  return Array.from({ length: p.max_attempts - 1 }, (_, n) => p.failover_delay ?? (delay ? Math.min(delay(n), p.max_backoff_delay) : null));
}

function drawTries(p) {
  const svg = $("tries"), width = svg.clientWidth || 400, list = waits(p), margin = 14, known = list.every(w => w !== null);
  const total = list.reduce((a, b) => a + b, 0);
  const parts = [];
  let x = margin;
  const room = width - 2 * margin, least = Math.min(40, room / Math.max(list.length, 1) / 2), rest = room - least * list.length;
  for (let i = 0; i <= list.length; i++) {
    parts.push(el("circle", { cx: x, cy: 22, r: 6 }, el("title", {}, "try " + (i + 1))));
    parts.push(el("text", { x, y: 44, "text-anchor": i === 0 ? "start" : i === list.length ? "end" : "middle", dx: i === 0 ? -6 : i === list.length ? 6 : 0 }, i === 0 ? "try 1" : String(i + 1)));
    if (i === list.length) break;
    const step = least + (total > 0 && known ? rest * list[i] / total : rest / list.length);
    parts.push(el("line", { x1: x + 8, x2: x + step - 8, y1: 22, y2: 22 }));
    parts.push(el("text", { x: x + step / 2, y: 12, "text-anchor": "middle" }, known ? span(list[i]) : ""));
    x += step;
  }
  svg.replaceChildren(...parts);
}

function fillPolicy(p) {
  const f = $("change");
  const names = state.backoffs.includes(p.backoff_strategy) ? state.backoffs : [p.backoff_strategy, ...state.backoffs];
  if (f.elements.backoff_strategy.dataset.names !== names.join()) {
    f.elements.backoff_strategy.dataset.names = names.join();
    f.elements.backoff_strategy.replaceChildren(...names.map(n => el("option", {}, n)));
  }
  for (const input of f.elements) {
    if (!input.name) continue;
    if (input.type === "checkbox") input.checked = p[input.name];
    else input.value = Array.isArray(p[input.name]) ? p[input.name].join(", ") : p[input.name] ?? "";
  }
}

// What has been typed or ticked stays until it is put in force or the form is
// closed; not every browser gives the focus to a box that is ticked.
$("change").oninput = () => { state.edited = true; };
$("change").parentElement.ontoggle = e => { state.edited &&= e.target.open; };

$("change").onsubmit = async e => {
  e.preventDefault();
  const f = e.target, said = f.querySelector("[role=status]"), change = {};
  for (const input of f.elements) {
    if (!input.name) continue;
    if (input.type === "checkbox") change[input.name] = input.checked;
    else if (input.name === "retry_status_codes") change[input.name] = (input.value.match(/\d+/g) || []).map(Number);
    else if (input.type === "number") change[input.name] = input.value === "" ? null : Number(input.value);
    else change[input.name] = input.value;
  }
  try {
    const p = await api("retry/policy", { method: "PUT", json: change });
    said.textContent = "in force since " + clock(p.updated_at);
    state.edited = false;
    showPolicy(p);
  } catch (failure) {
    said.textContent = failure.message;
  }
};

// --- Plugins -------------------------------------------------------------------

poll(1000, () => ["plugins"], list => {
  state.backoffs = list.plugins.filter(x => x.kind === "backoff").map(x => x.name);
  const order = x => (x.used_for.length ? 0 : 2) + (x.source === "builtin" ? 1 : 0);
  rows($("plugins"), list.plugins.sort((a, b) => order(a) - order(b) || a.name.localeCompare(b.name)), x => x.name, (x, tr) => {
    tr.className = x.used_for.length ? "" : "dim";
    const faults = x.faults ? x.faults + " (" + percent(x.faults / x.calls) + ")" : "–";
    return [
      x.name, x.kind, x.source,
      [el("span", { class: "pill " + x.state, title: x.last_error || "" }, x.state), x.state + x.last_error],
      x.used_for.join(", "),
      right(number.format(x.calls)),
      right(x.calls ? (1e6 * x.spent_seconds / x.calls).toFixed(2) + " µs" : "–"),
      [el("div", { class: "n", title: Object.entries(x.faults_by_reason).map(([r, n]) => r + ": " + n).join("\n") }, faults), faults],
      [pluginButtons(x), [x.state, x.used_for, x.quarantined, x.can_roll_back, x.hides_upload, x.source].join()],
    ];
  });
});

function pluginButtons(x) {
  const list = [], path = "plugins/" + encodeURIComponent(x.name);
  for (const use of x.kind === "scorer" ? ["first", "retry"] : ["backoff"]) {
    if (x.state !== "failed" && !x.used_for.includes(use)) list.push(button("use for " + use, path + "/activate", { method: "POST", json: { for: use } }));
  }
  if (x.quarantined) list.push(button("release", path + "/release", { method: "POST" }));
  if (x.can_roll_back) list.push(button("roll back", path + "/rollback", { method: "POST" }));
  if (x.source === "api" && !x.used_for.length) list.push(button("delete", path, { method: "DELETE" }, "Delete the upload " + x.name + "?"));
  if (x.hides_upload) list.push(button("delete the upload it hides", path, { method: "DELETE" }, "Delete the upload " + x.name + "?"));
  return list;
}

$("upload").onsubmit = async e => {
  e.preventDefault();
  const f = e.target, name = f.elements.name.value, said = f.querySelector("[role=status]"), body = new FormData();
  said.textContent = "compiling …";
  try {
    const there = (await api("plugins")).plugins.some(x => x.name === name);
    body.append("module", f.elements.module.files[0]);
    if (!there) body.append("name", name);
    const x = await api(there ? "plugins/" + encodeURIComponent(name) : "plugins", { method: there ? "PUT" : "POST", body });
    said.textContent = x.name + " is loaded";
    f.reset();
    refresh();
  } catch (failure) {
    said.textContent = failure.message;
  }
};

// --- The head -------------------------------------------------------------------

poll(10000, () => ["healthz", "config"], (h, c) => {
  $("version").textContent = h.version;
  const faults = c.reload.faults.map(f => f.file + (f.line ? ":" + f.line : "") + ": " + (f.key ? f.key + ": " : "") + f.message);
  const waits = c.reload.restart;
  $("reload").textContent = faults.length ? "The configuration was not reloaded: " + faults.join("; ") : waits.length ? "With the next start takes effect: " + waits.join(", ") : "";
  $("reload").hidden = !$("reload").textContent;
  const [, host, port] = c.gateway.match(/^(.*):(\d+)$/), everywhere = ["0.0.0.0", "[::]"].includes(host);
  $("curl").textContent = "curl -i -x http://" + (everywhere ? location.hostname : host) + ":" + port + " http://example.com/";
  $("copy").hidden = !navigator.clipboard;
});

$("copy").onclick = async () => {
  await navigator.clipboard.writeText($("curl").textContent);
  $("copy").textContent = "copied";
  setTimeout(() => { $("copy").textContent = "copy"; }, 1500);
};
