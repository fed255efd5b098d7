// A page in a dialog: its subject is in the URL, and it is updated until it is closed.
import { address } from "./dom.js";

const every = 5000; // ms

// openPage returns two functions: show opens the page of a subject, and update draws the page again. The parameter name
// is the name of the subject in the URL. The function draw writes the content.
export function openPage(dialog, name, draw) {
  const content = dialog.querySelector(".content");
  let subject = "",
    timer;
  const update = async () => {
    clearTimeout(timer);
    const now = subject;
    if (!now) return;
    try {
      await draw(now, content, () => subject === now);
    } catch (e) {
      if (subject === now) content.textContent = e.message;
    }
    if (subject === now) timer = setTimeout(update, every);
  };
  const show = id => {
    subject = id;
    address.set({ [name]: id });
    dialog.querySelector("h2").textContent = id;
    content.replaceChildren("…");
    if (!dialog.open) dialog.showModal();
    update();
  };
  dialog.addEventListener("close", () => {
    clearTimeout(timer);
    subject = "";
    address.set({ [name]: "" });
  });
  dialog.querySelector(".close").onclick = () => dialog.close();
  return { show, update };
}
