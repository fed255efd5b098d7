// Requests to the REST API.
import { $, el, layer } from "./dom.js";
import { reconnect, refresh } from "./live.js";
import { askForKey, session, setClock, showLogin } from "./session.js";
import { offerUndo } from "./undo.js";

// A request fails after this many milliseconds: the gateway may be unreachable, or this machine may have slept.
const requestTimeout = 30000;

// call makes a request and returns its response. The parameter type is the media type of the body.
async function call(path, { method = "GET", json, body, type } = {}, tag = undefined) {
  const key = session.key,
    headers = key ? { Authorization: "Bearer " + key } : {};
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
  setClock(response.headers.get("Date"));
  if (response.ok || response.status === 304) {
    showRole(response.headers.get("X-Whirlpool-Role"));
    return response;
  }
  if (response.status === 401) {
    askForKey(key);
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

// download lets the user save the response to a GET as a file.
export async function download(path, name) {
  const file = URL.createObjectURL(await (await call(path)).blob());
  el("a", { href: file, download: name }).click();
  URL.revokeObjectURL(file);
}

// showRole shows what a key of this role may use: only with the role "admin", the elements of the class admin are visible.
function showRole(role) {
  if (!role || role === session.role) return;
  session.role = role;
  document.body.dataset.role = role;
  $("role").textContent = session.key ? (role === "read" ? "a key that may only read" : "an admin's key") : "";
  $("signout").hidden = !session.key;
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

const error = $("alert");

// showError shows an error where the user sees it; "" hides the previous one.
export function showError(text) {
  error.firstElementChild.textContent = text;
  error.hidden = !text;
  placeError();
}

function placeError() {
  const at = layer();
  at === document.body ? $("reload").before(error) : at.prepend(error);
}
error.querySelector("button").onclick = () => showError("");
for (const d of document.querySelectorAll("dialog")) d.addEventListener("close", placeError);

$("login").onsubmit = async e => {
  e.preventDefault();
  session.key = e.target.elements.key.value;
  const status = e.target.querySelector("[role=alert]");
  try {
    await api("retry/policy");
    sessionStorage.setItem("key", session.key);
    status.textContent = "";
    e.target.reset();
    showLogin(false);
    reconnect();
    refresh();
  } catch (error) {
    status.textContent = error.message;
  }
};

$("signout").onclick = () => {
  sessionStorage.removeItem("key");
  location.reload();
};
