// Elements, tables and the formats of numbers and times.
export const $ = id => document.getElementById(id);

// layer returns the element that the user can reach: the dialog that was opened last, or the whole page.
export const layer = () => [...document.querySelectorAll("dialog[open]")].at(-1) || document.body;

// openDialog opens a dialog if it is closed. The open dialogs are in the page in the order of their opening (layer).
export function openDialog(dialog) {
  if (dialog.open) return;
  document.body.append(dialog);
  dialog.showModal();
}

const svgTags = ["svg", "g", "rect", "line", "circle", "path", "text", "title"];

// el returns a new element. onclick and similar attributes are functions.
export function el(tag, attributes = {}, ...children) {
  const e = svgTags.includes(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) e[name] = value;
    else if (value !== undefined && value !== false) e.setAttribute(name, value);
  }
  e.append(...children);
  return e;
}

// count is a number with a noun in the right form, such as "1 retry" or "2 retries".
export const count = (n, noun, plural = noun + "s") => number.format(n) + " " + (n === 1 ? noun : plural);

// link is a button that looks like a link and calls a function.
export const link = (text, onclick, title) => el("button", { type: "button", class: "link-button", title, onclick }, text);

// pill is a coloured state.
export function pill(state, text = state.replace("_", "-"), title = undefined) {
  return el("span", { class: "pill " + state, title }, text);
}

// write replaces the text of an element if it differs.
export function write(e, text) {
  text = String(text);
  if (e.firstChild instanceof Text) {
    if (e.firstChild.data !== text) e.firstChild.data = text;
  } else if (text || e.firstChild) e.textContent = text;
}

// attribute sets an attribute if it differs; "" removes it.
export function attribute(e, name, value) {
  if (!value) e.removeAttribute(name);
  else if (e.getAttribute(name) !== value) e.setAttribute(name, value);
}

// cell replaces the content of a table cell if the new content has another version. Otherwise the elements of the cell
// stay, with focus and selection.
function cell(td, content, version = content) {
  version = String(version);
  if (td.dataset.version === version) return;
  td.dataset.version = version;
  td.replaceChildren(...[content].flat());
}

const atOnce = 50, // new rows
  later = new WeakMap(); // the request for the next frame of each body whose rows are not complete

// rows updates a table's body to one row for each item, in order. The function key returns a text that identifies the
// row of an item. The function cellsOf returns the contents of the cells of this row. A content with a version is the
// pair [content, version]. If there are many new rows, some of them follow in the next frames, so that the page responds
// meanwhile.
export function rows(body, items, key, cellsOf) {
  cancelAnimationFrame(later.get(body));
  const old = new Map([...body.rows].map(tr => [tr.dataset.key, tr]));
  let at = body.firstElementChild,
    made = 0;
  for (const item of items) {
    const k = key(item);
    let tr = old.get(k);
    old.delete(k);
    if (!tr) {
      if (made++ === atOnce) {
        later.set(body, requestAnimationFrame(() => rows(body, items, key, cellsOf)));
        break;
      }
      tr = el("tr");
      tr.dataset.key = k;
    }
    cellsOf(item, tr).forEach((c, i) => {
      const td = tr.cells[i] || tr.appendChild(el("td"));
      Array.isArray(c) ? cell(td, c[0], c[1]) : cell(td, c);
    });
    if (tr === at) at = at.nextElementSibling;
    else body.insertBefore(tr, at);
  }
  for (const tr of old.values()) tr.remove();
}

export const right = text => [el("div", { class: "n" }, text), text];

// number.format groups the digits of a number, as Intl.NumberFormat("en") does. That one takes 15 ms and more to start,
// while the page loads.
export const number = {
  format(n) {
    const [whole, part] = String(+(+n).toFixed(3)).split(".");
    return whole.replace(/\B(?=(\d{3})+$)/g, ",") + (part ? "." + part : "");
  },
};

// percent is a share as a text. Only the whole is 100 %: one failure of 100,000 requests is 99.99 %.
export function percent(part) {
  if (part === 0 || part === 1) return 100 * part + " %";
  const text = (100 * part).toFixed(1);
  return (text === "100.0" ? (Math.floor(10000 * part) / 100).toFixed(2) : text) + " %";
}

const two = n => String(n).padStart(2, "0");

// hour and clock are a time of day as hours:minutes and hours:minutes:seconds. (toLocaleTimeString takes 0.1 ms, and a
// chart of a day has a title for each of its 288 bars.)
export function hour(time) {
  const at = new Date(time);
  return two(at.getHours()) + ":" + two(at.getMinutes());
}
export const clock = time => hour(time) + ":" + two(new Date(time).getSeconds());

let dates; // made when it is needed, because that takes some ms
export function date(time) {
  const at = new Date(time ?? NaN);
  if (isNaN(at)) return ""; // format would throw a RangeError
  dates ||= new Intl.DateTimeFormat([], { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });
  return dates.format(at);
}

// instant returns a time of the API in ms, with its microseconds. (Date.parse drops them.)
export const instant = text => Date.parse(text) + +("0." + (/\.\d{3}(\d+)/.exec(text)?.[1] ?? 0));
export const words = text => text.replaceAll("_", " ");

// span is a duration in seconds as a text.
export function span(seconds) {
  if (seconds === 0) return "0 s";
  if (seconds < 0.001) return Math.round(seconds * 1e6) + " µs";
  if (seconds < 1) return (seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0) + " ms";
  const whole = Math.round(seconds);
  return whole < 60
    ? +seconds.toFixed(seconds < 10 ? 2 : 1) + " s"
    : Math.floor(whole / 60) + " min " + (whole % 60) + " s";
}

// bytes is an amount of data as a text.
export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let i = 0;
  for (; n >= 1000 && i < units.length - 1; i++) n /= 1000;
  return +n.toPrecision(3) + " " + units[i];
}

// address keeps the state of the page in the fragment of its URL: what is searched, sorted and shown.
export const address = {
  get: name => new URLSearchParams(location.hash.slice(1)).get(name) || "",
  set(values) {
    const all = new URLSearchParams(location.hash.slice(1));
    for (const [name, value] of Object.entries(values)) value ? all.set(name, value) : all.delete(name);
    history.replaceState(null, "", all.size ? "#" + all : location.pathname + location.search);
  },
};
