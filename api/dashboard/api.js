// Requests to the REST API, and what the page shows about its connection.
import { $, clock, el } from "./dom.js";
import { offerUndo } from "./undo.js";

// session holds the data that the page keeps between two requests.
export const session = {
  key: sessionStorage.getItem("key") || "", // the API key
  role: "", // of the key: "admin" or "read"
  clockOffset: 0, // of the gateway's clock, in ms
  updated: 0, // time of the last response
};

// A request fails after this many milliseconds: the gateway may be unreachable, or this machine may have slept.
const requestTimeout = 30000;

// call makes a request and returns its response. The parameter type is the media type of the body.
async function call(path, { method = "GET", json, body, type } = {}, tag = undefined) {
  const headers = {},
    key = session.key;
  if (key) headers.Authorization = "Bearer " + key;
  if (tag) headers["If-None-Match"] = tag;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  else if (type) headers["Content-Type"] = type;
  const signal = method === "GET" ? AbortSignal.timeout(requestTimeout) : undefined; // an upload may take longer
  const response = await fetch("api/v1/" + path, {
    method,
    headers,
    signal,
    body: json === undefined ? body : JSON.stringify(json),
  });
  const offset = Date.parse(response.headers.get("Date")) - Date.now();
  session.clockOffset = Math.abs(offset) > 2000 ? offset : 0; // Date has whole seconds
  if (response.ok || response.status === 304) {
    showRole(response.headers.get("X-Whirlpool-Role"));
    return response;
  }
  if (response.status === 401) {
    if (key === session.key) askForKey(true); // else the user has entered another key meanwhile
    throw new Error("the API does not accept this key");
  }
  throw new Error(
    (await response.json().catch(() => ({}))).message || "the API responded with status " + response.status,
  );
}

// known has the latest response to each GET: its ETag and text. The API does not send an unchanged response again.
const known = new Map();
const mostKnown = 100;

// api makes a request and returns the JSON of its response.
export async function api(path, options) {
  const before = options ? undefined : known.get(path);
  const response = await call(path, options, before?.tag);
  if (response.status === 204) return null;
  if (response.status === 304) return JSON.parse(before.text);
  const text = await response.text(),
    tag = response.headers.get("ETag");
  if (tag && !options) {
    if (known.size >= mostKnown) known.clear();
    known.set(path, { tag, text });
  }
  return JSON.parse(text);
}

// showRole hides the buttons that a key with the role "read" may not use.
function showRole(role) {
  if (!role || role === session.role) return;
  session.role = role;
  document.body.dataset.role = role;
  $("role").textContent = session.key ? (role === "read" ? "a key that may only read" : "an admin's key") : "";
  $("signout").hidden = !session.key;
}

// gatewayNow is the time of the gateway's clock, which may differ from this machine's.
export const gatewayNow = () => Date.now() + session.clockOffset;

// askForKey shows the form for the key and hides everything else. If the parameter on is false, it does the reverse.
function askForKey(on) {
  if (on && $("login").hidden) setTimeout(() => $("login").elements.key.focus());
  $("login").hidden = !on;
  document.querySelector("main").hidden = on;
  if (on) showConnection("signed out");
}

const rounds = [];

// poll requests the paths every ms milliseconds and calls update with the responses. It pauses while the page is hidden
// or needs a key. The function update may return another interval. poll returns a function that polls immediately.
export function poll(ms, paths, update) {
  let timer,
    busy = false,
    again = false;
  const round = async () => {
    again = busy;
    if (busy) return;
    busy = true;
    clearTimeout(timer);
    let wait = ms;
    if (!document.hidden && $("login").hidden) {
      try {
        wait = update(...(await Promise.all(paths().map(p => api(p))))) || ms;
        showConnection("");
      } catch (e) {
        if ($("login").hidden)
          showConnection(
            e instanceof TypeError || e.name === "TimeoutError" ? "the gateway does not respond" : e.message,
          );
      }
    }
    timer = setTimeout(round, again ? 0 : wait);
    busy = again = false;
  };
  rounds.push(round);
  round();
  return round;
}

// refresh polls everything now.
export function refresh() {
  for (const round of rounds) round();
}

// showConnection shows whether the page is up to date. The parameter problem is "" if the page is up to date.
function showConnection(problem) {
  if (!problem) session.updated = Date.now();
  const text = !problem ? "live" : problem + (session.updated ? "; this page is from " + clock(session.updated) : "");
  document.querySelector("main").classList.toggle("stale", problem !== "");
  $("link").className = "link " + (problem ? "down" : "live");
  if ($("link").textContent !== text) $("link").textContent = text;
}

// act makes the request of a button. If the request fails, act shows the error. Otherwise it shows the text of done, if
// done is given. The field undo of done may have the path and the options of a request that undoes the first one.
export async function act(button, path, options, done) {
  button.disabled = true;
  try {
    await api(path, options);
    showError("");
    if (done) offerUndo(done.text, done.undo && (() => api(...done.undo).then(refresh)));
  } catch (e) {
    showError(button.textContent + ": " + e.message);
  }
  button.disabled = false;
  refresh();
}

// button returns a button that makes a request when it is clicked. If there is a question, the user must confirm it
// before the request. With a key of the role "read", the page hides the button.
export function button(text, path, options, { question, done } = {}) {
  const clicked = e => {
    if (!question || confirm(question)) act(e.target, path, options, done);
  };
  return el("button", { type: "button", class: "admin", onclick: clicked }, text);
}

export function showError(text) {
  $("alert").textContent = text;
  $("alert").hidden = !text;
}

// follow calls onEvent with each server-sent event of the API. After a failure it connects again, and continues after
// the last event that it has received. It does not use EventSource, because EventSource cannot send the key.
export async function follow(onEvent) {
  let last = "0"; // so that the first response begins with the oldest event that is kept
  for (;;) {
    try {
      const headers = {};
      if (session.key) headers.Authorization = "Bearer " + session.key;
      headers["Last-Event-ID"] = last;
      const response = $("login").hidden && (await fetch("api/v1/events", { headers }));
      if (response && response.ok) {
        for await (const event of eventsOf(response.body)) {
          if (event.id) last = event.id;
          onEvent(event);
        }
      }
    } catch {
      // the polls show that the gateway does not respond
    }
    await new Promise(next => setTimeout(next, 2000));
  }
}

// eventsOf yields the events of a stream: id, type and data (the parsed JSON).
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const fields = {};
      for (const line of part.split("\n")) {
        const colon = line.indexOf(":");
        if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).trimStart();
      }
      if (fields.data) yield { id: fields.id, type: fields.event, data: JSON.parse(fields.data) };
    }
  }
}

$("login").onsubmit = async e => {
  e.preventDefault();
  session.key = e.target.elements.key.value;
  const status = e.target.querySelector("[role=alert]");
  try {
    await api("retry/policy");
    sessionStorage.setItem("key", session.key);
    status.textContent = "";
    e.target.reset();
    askForKey(false);
    refresh();
  } catch (error) {
    status.textContent = error.message;
  }
};

$("signout").onclick = () => {
  sessionStorage.removeItem("key");
  location.reload();
};
