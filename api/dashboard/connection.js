// The text at the top of the page that says whether the page is up to date.
import { $, clock } from "./dom.js";

let open = false, // the event stream is open, and its first event has arrived
  why = "the event stream has not begun", // the reason why the stream is not open
  updated = 0; // time of the last response

// isOpen reports whether the page gets the event stream.
export const isOpen = () => open;

export function setOpen() {
  open = true;
}

// setClosed says that the page gets no event stream. The parameter reason says why.
export function setClosed(reason) {
  open = false;
  why = reason;
}

// showConnection shows whether the page is up to date. The parameter problem is "" if the page is up to date.
export function showConnection(problem) {
  if (!problem) updated = Date.now();
  const old = problem + (updated ? "; this page is from " + clock(updated) : "");
  const text = problem ? old : open ? "live" : "polling, because " + why;
  document.querySelector("main").classList.toggle("stale", problem !== "");
  $("link").className = "link " + (problem ? "down" : text === "live" ? "live" : "polling");
  if ($("link").textContent !== text) $("link").textContent = text;
}
