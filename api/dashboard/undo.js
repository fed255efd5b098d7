// A message on what was done, with a button that undoes it for a while.
import { $, layer } from "./dom.js";

const shownFor = 20000; // ms; the time stops while the message has the focus or the pointer
const toast = $("toast");
let timer,
  undoLast = null;

// offerUndo shows a message and, if the function undo is given, a button that calls this function. Its argument is a
// function that shows the progress. undo may return the text that is shown at the end.
export function offerUndo(text, undo = null) {
  undoLast = undo;
  show(text);
}

function show(text) {
  $("toasttext").textContent = text;
  $("undo").hidden = !undoLast;
  layer().append(toast);
  toast.hidden = false;
  wait();
}

function wait() {
  clearTimeout(timer);
  timer = setTimeout(close, shownFor);
}

function close() {
  clearTimeout(timer);
  undoLast = null;
  toast.hidden = true;
}

for (const event of ["mouseenter", "focusin"]) toast.addEventListener(event, () => clearTimeout(timer));
for (const event of ["mouseleave", "focusout"]) toast.addEventListener(event, () => toast.hidden || wait());
$("dismiss").onclick = close;
for (const d of document.querySelectorAll("dialog")) d.addEventListener("close", () => layer().append(toast));

$("undo").onclick = async () => {
  const undo = undoLast;
  undoLast = null;
  show("undoing …");
  clearTimeout(timer);
  try {
    show((await undo(text => ($("toasttext").textContent = text))) || "undone");
  } catch (e) {
    show("It was not undone: " + e.message);
  }
};
