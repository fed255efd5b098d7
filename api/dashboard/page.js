// A page in a dialog: its subject is in the URL, and it is updated until it is closed.
import { address, openDialog } from "./dom.js";
import { watch } from "./live.js";

// openPage returns two functions: show opens the page of a subject, and update draws the page again. The parameter name
// is the name of the subject in the URL. The page is drawn again after a change of one of the views. The function draw
// writes the content.
export function openPage(dialog, name, views, draw) {
  const content = dialog.querySelector(".content");
  let subject = "";
  const update = watch({ views, every: 5000, polled: 5000 }, async () => {
    const now = subject;
    if (!now) return false;
    try {
      await draw(now, content, () => subject === now);
    } catch (e) {
      if (subject === now) content.textContent = e.message;
    }
  });
  const show = id => {
    subject = id;
    address.set({ [name]: id });
    dialog.querySelector("h2").textContent = id;
    content.replaceChildren("…");
    openDialog(dialog);
    update();
  };
  dialog.addEventListener("close", () => {
    subject = "";
    address.set({ [name]: "" });
  });
  dialog.querySelector(".close").onclick = () => dialog.close();
  return { show, update };
}
