// When the page requests what it shows: when the gateway reports a change in its event stream. Without a connection to
// this stream, the page polls. Nothing is requested while the page is hidden or needs a key.
import { isOpen, setClosed, setOpen, showConnection } from "./connection.js";
import { $ } from "./dom.js";
import { askForKey, session, setClock } from "./session.js";
import { serve } from "./stream.js";

// Times in ms.
const pause = 2000, // time until a request that has failed is repeated
  pinging = 10000, // time between two pings of the stream
  patience = 1000; // time at the start for which the page waits for the stream before it makes requests

const watches = [],
  listeners = []; // called with each event of the stream
let started = false,
  port, // to the stream
  workers = 0, // SharedWorkers that have stopped
  pings = 0; // since the latest message

// watch calls the async function work at the start, and then after each change of one of the views (as GET /events
// reports them). The parameter every is the minimum time between two calls, in ms. While the page polls, the time
// between two calls is polled, in ms, or the number that work returns. If work has requested nothing, it returns false.
// If the element shown is given, work is called again only while this element is near the visible part of the page. If
// streamed is set, the event stream itself has the data, so work is called only while the page polls. The result of
// watch is a function that calls work at once.
export function watch({ views = [], every = 1000, polled = 2000, shown, streamed = false }, work) {
  const w = { views, streamed, changed: true, visible: true, calls: 0 };
  let busy = false,
    again = false,
    last = -Infinity,
    timer;

  w.plan = () => {
    clearTimeout(timer);
    if (busy || !w.changed || !mayRequest() || (streamed && isOpen()) || (!w.visible && w.calls)) return;
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
    else if (!isOpen() || w.changed) {
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

// listen calls f with each event of the stream: its id, type and data.
export const listen = f => listeners.push(f);

document.addEventListener("visibilitychange", () => watches.forEach(w => w.plan()));

// failed shows why a request has failed. If there is no response, the stream may be dead, too.
function failed(e) {
  const none = e instanceof TypeError || e.name === "TimeoutError";
  if (none) port.postMessage({ restart: true });
  showConnection(none ? "the gateway does not respond" : e.message);
}

// --- The event stream -----------------------------------------------------------

// start connects to the event stream, which this page shares with the other pages of the browser (stream.js). It does
// not use EventSource, because EventSource cannot send the key.
export function start() {
  setTimeout(begin, patience);
  share();
  setInterval(ping, pinging);
  addEventListener("pagehide", () => port.postMessage({ leave: true }));
  addEventListener("pageshow", e => e.persisted && reconnect());
}

// share reads the stream in a SharedWorker. Pages that have another name for it have another worker.
function share() {
  const name = "VERSION " + workers; // the gateway inserts the version of the worker's files
  try {
    const worker = new SharedWorker(new URL("worker.js", import.meta.url), { type: "module", name });
    worker.onerror = readAlone; // the browser cannot run modules as workers
    use(worker.port);
  } catch {
    readAlone(); // the browser has no such workers
  }
}

// ping asks the worker whether it is alive. After two pings without an answer, the page polls, and uses a second
// worker. If that one stops, too, the page reads alone.
function ping() {
  if (pings++ < 2) return port.postMessage({ key: session.key, ping: true });
  poll("the event stream has stopped");
  ++workers === 1 ? share() : readAlone();
}

// readAlone reads the stream in this page.
function readAlone() {
  const { port1, port2 } = new MessageChannel();
  serve(port1);
  use(port2);
}

function use(next) {
  if (port) {
    port.onmessage = null;
    port.postMessage({ leave: true });
  }
  port = next;
  pings = 0;
  port.onmessage = ({ data: { date, event, problem, refused } }) => {
    pings = 0;
    if (date) setClock(date);
    if (refused !== undefined) askForKey(refused);
    if (problem) poll(problem);
    if (!event) return;
    if (event.type === "views") changed(event.data.changed);
    for (const f of listeners) f(event);
  };
  reconnect();
}

// reconnect connects to the stream with the key of the page.
export const reconnect = () => port.postMessage({ key: session.key });

function begin() {
  if (started) return;
  started = true;
  for (const w of watches) w.plan();
}

// poll makes the page poll. The parameter reason says why.
function poll(reason) {
  const already = !isOpen() && started;
  setClosed(reason);
  begin();
  if (already) return;
  for (const w of watches) {
    w.changed = true;
    w.plan();
  }
}

// changed plans the requests for some views. The first event of a stream names all views.
function changed(views) {
  setOpen();
  begin();
  for (const w of watches) {
    if (!w.views.some(v => views.includes(v))) continue;
    w.changed = true;
    w.plan();
  }
  showConnection("");
}
