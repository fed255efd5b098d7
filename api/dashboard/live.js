// When the page requests what it shows: when the gateway reports a change in its event stream. Without a connection to
// this stream, the page polls. Nothing is requested while the page is hidden or needs a key.
import { askForKey, headersOf, session, setClock } from "./api.js";
import { $, clock } from "./dom.js";

const types =
  "breaker,plugin_log,plugin_fault,plugin_quarantine,activation,policy,reload,ban,exhaustion,views,status,totals";

// Times in ms.
const opening = 4000, // until the first event; a proxy that holds the stream back for longer buffers it
  silence = 25000, // without data; the gateway sends a heartbeat after 15 s
  pause = 2000, // before the next connection, and before a request that has failed is repeated
  patience = 1000; // at the start, until the page requests what it shows without waiting for the stream

const watches = [],
  listeners = []; // called with each event of the stream
let open = false, // the stream is open, and its first event has arrived
  why = "", // the reason why the stream is not open
  started = false,
  connection, // the AbortController of the stream
  wake = () => {}; // ends the pause before the next connection

// watch calls the async function work at the start, and then after each change of one of the views (as GET /events
// reports them). Between two calls are at least every ms. While the page polls, there are polled ms between two calls,
// or the number that is the result of work. If work has requested nothing, its result is false. With the element shown, work waits until its section of the page is near the visible part.
// With streamed, the stream itself has the data, so that work is called only while the page polls. The result is a
// function that calls work at once.
export function watch({ views = [], every = 1000, polled = 2000, shown, streamed = false }, work) {
  const w = { views, streamed, changed: true, visible: true, calls: 0 };
  let busy = false,
    again = false,
    last = -Infinity,
    timer;

  w.plan = () => {
    clearTimeout(timer);
    if (busy || !w.changed || !mayRequest() || (streamed && open) || (!w.visible && w.calls)) return;
    timer = setTimeout(w.run, Math.max(0, last + every - performance.now()));
  };

  w.run = async () => {
    clearTimeout(timer);
    w.changed = true;
    again = busy;
    if (busy || !mayRequest()) return;
    busy = true;
    w.changed = false;
    w.calls++;
    last = performance.now();
    let wait = polled;
    try {
      const result = await work();
      if (Number.isFinite(result)) wait = result;
      if (result !== false) showConnection("");
    } catch (e) {
      w.changed = true;
      if ($("login").hidden) failed(e);
      wait = pause;
    }
    busy = false;
    if (again) w.run();
    else if (!open || w.changed) {
      timer = setTimeout(() => {
        w.changed = true;
        w.plan();
      }, wait);
    }
  };

  if (shown) {
    const near = new IntersectionObserver(
      entries => {
        w.visible = entries.at(-1).isIntersecting;
        w.plan();
      },
      { rootMargin: "200px" },
    );
    near.observe(shown.closest("section"));
  }
  watches.push(w);
  return w.run;
}

const mayRequest = () => started && !document.hidden && $("login").hidden;

// eachSecond calls f every second while the page is visible.
export function eachSecond(f) {
  setInterval(() => document.hidden || f(), 1000);
}

// refresh requests everything now.
export function refresh() {
  for (const w of watches) w.run();
}

// isOpen reports whether the page gets the event stream.
export const isOpen = () => open;

// listen calls f with each event of the stream: its id, type and data.
export const listen = f => listeners.push(f);

document.addEventListener("visibilitychange", () => watches.forEach(w => w.plan()));

// failed shows why a request has failed. If there is no response, the stream may be dead, too.
function failed(e) {
  const none = e instanceof TypeError || e.name === "TimeoutError";
  if (none) connection?.abort();
  showConnection(none ? "the gateway does not respond" : e.message);
}

// showConnection shows whether the page is up to date. The parameter problem is "" if the page is up to date.
export function showConnection(problem) {
  if (!problem) session.updated = Date.now();
  const old = problem + (session.updated ? "; this page is from " + clock(session.updated) : "");
  const text = problem ? old : open || !why ? "live" : "polling, because " + why;
  document.querySelector("main").classList.toggle("stale", problem !== "");
  $("link").className = "link " + (problem ? "down" : text === "live" ? "live" : "polling");
  if ($("link").textContent !== text) $("link").textContent = text;
}

// --- The event stream -----------------------------------------------------------

// start connects to the event stream, and connects again when the connection has ended. It continues after the last
// event that it has received. It does not use EventSource, because EventSource cannot send the key.
export async function start() {
  setTimeout(begin, patience);
  let last = "0"; // so that the first response begins with the oldest event that is kept
  for (;;) {
    if ($("login").hidden) {
      const ended = await read(last, id => (last = id)).catch(() => "the event stream has ended");
      if (ended) poll(ended);
    }
    await new Promise(next => {
      wake = next;
      setTimeout(next, pause);
    });
  }
}

// reconnect connects to the stream now if there is no connection.
export const reconnect = () => wake();

function begin() {
  if (started) return;
  started = true;
  for (const w of watches) w.plan();
}

// poll makes the page poll. The parameter reason says why.
function poll(reason) {
  const already = !open && started && why;
  open = false;
  why = reason;
  begin();
  if (already) return;
  for (const w of watches) {
    w.changed = true;
    w.plan();
  }
}

// read reads the events after the one with the id last, until the connection ends. It returns the reason for polling; ""
// if the page needs a key.
async function read(last, onId) {
  open = false;
  if (!window.TextDecoderStream) return "this browser cannot read the event stream";
  const abort = (connection = new AbortController()),
    key = session.key;
  let latest = performance.now(); // time of the latest data
  const timer = setInterval(() => {
    const quiet = performance.now() - latest;
    if (open && quiet > silence) abort.abort();
    if (!open && quiet > opening) poll("a proxy holds the event stream back");
  }, 1000);
  try {
    const headers = { ...headersOf(key), "Last-Event-ID": last };
    const response = await fetch("api/v1/events?type=" + types, { headers, signal: abort.signal });
    setClock(response);
    if (response.status === 401) {
      askForKey(key);
      return "";
    }
    if (!response.ok) return (await response.json().catch(() => ({}))).message || "the event stream has status " + response.status;
    for await (const event of eventsOf(response.body, () => (latest = performance.now()))) {
      if (event.id) onId(event.id);
      if (!event.data) continue;
      if (event.type === "views") changed(event.data.changed);
      for (const f of listeners) f(event);
    }
    return "the event stream has ended";
  } finally {
    clearInterval(timer);
    abort.abort();
  }
}

// changed plans the requests for some views. The first event of a stream names all views.
function changed(views) {
  open = true;
  begin();
  for (const w of watches) {
    if (!w.views.some(v => views.includes(v))) continue;
    w.changed = true;
    w.plan();
  }
  showConnection("");
}

// eventsOf yields the events of a stream: id, type and data (the parsed JSON). The function alive is called whenever
// data arrives.
async function* eventsOf(body, alive) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    alive();
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const fields = {};
      for (const line of part.split("\n")) {
        const colon = line.indexOf(":");
        if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).trimStart();
      }
      yield { id: fields.id, type: fields.event, data: fields.data && JSON.parse(fields.data) };
    }
  }
}
