// What the page keeps between two requests: the key and the gateway's clock.
import { showConnection } from "./connection.js";
import { $ } from "./dom.js";

export const session = {
  key: sessionStorage.getItem("key") || "", // the API key
  role: "", // of the key: "admin" or "read"
};

let clockOffset = 0; // of the gateway's clock, in ms

// setClock computes the offset of the gateway's clock. The parameter date is the field Date of a response that has just
// arrived.
export function setClock(date) {
  const offset = Date.parse(date) - Date.now();
  clockOffset = Math.abs(offset) > 2000 ? offset : 0; // Date has whole seconds
}

// gatewayNow is the time of the gateway's clock, which may differ from this machine's.
export const gatewayNow = () => Date.now() + clockOffset;

// askForKey shows the form for the key and hides everything else. The parameter refused is the key that the API has
// refused. If the user has entered another one meanwhile, askForKey does nothing.
export function askForKey(refused) {
  if (refused !== session.key) return;
  if ($("login").hidden) setTimeout(() => $("login").elements.key.focus());
  showLogin(true);
  showConnection("signed out");
}

export function showLogin(on) {
  $("login").hidden = $("login").parentElement.hidden = !on;
  document.querySelector("main").hidden = on;
}
