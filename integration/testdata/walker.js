// walk uses each control of the dashboard that is visible and alive: on the page itself and in its dialogs. With
// onlyOpen it uses only those that open something. It returns the names of all controls that it has seen, and the
// requests that were changes or that the API has refused.
async function walk(onlyOpen) {
  const seen = new Set(),
    found = [],
    windowFetch = window.fetch;
  let running = 0;
  window.confirm = () => true;
  window.fetch = async (url, options = {}) => {
    running++;
    try {
      const response = await windowFetch(url, options),
        method = options.method || "GET";
      if (method !== "GET" || response.status >= 400) found.push(`${method} ${url}: ${response.status}`);
      return response;
    } finally {
      running--;
    }
  };
  const pause = ms => new Promise(next => setTimeout(next, ms));
  const settle = async () => {
    await pause(30);
    for (let i = 0; running && i < 100; i++) await pause(30);
    await pause(30); // the responses are drawn
  };
  // The name of a control has no digits, so that one of many like rows stands for all. The rows of plugins differ.
  const nameOf = e => {
    const place = e.closest("form[id], tbody[id], p[id], dialog[id], details[id], div[id], header, section"),
      text = e.tagName === "SUMMARY" || e.tagName === "BUTTON" ? e.textContent : e.name || e.id || e.ariaLabel,
      plugin = e.closest("#plugins tr")?.dataset.key;
    return ((plugin || place.id || place.tagName.toLowerCase()) + ": " + text.trim()).replace(/[0-9]+/g, "#");
  };
  const opens = e => e.matches("summary, .link-button, #proxies input") || e.textContent === "details";
  const alive = e => e.checkVisibility() && !e.disabled;
  const type = (e, value) => {
    e.value = value;
    for (const event of ["input", "change"]) e.dispatchEvent(new Event(event, { bubbles: true }));
  };
  const use = async e => {
    if (e.tagName === "BUTTON" || e.type === "checkbox") e.click();
    else if (e.tagName === "SUMMARY") e.parentElement.open || e.click();
    else if (e.type !== "file") {
      const before = e.value;
      type(e, e.tagName === "SELECT" ? e.options[e.options.length - 1].value : "7");
      await settle();
      e.form?.requestSubmit(); // the Enter key does so
      await settle();
      type(e, before);
      await pause(250); // a search waits so long
    }
    await settle();
  };
  const layers = () => [...document.querySelectorAll("dialog[open]")];
  for (;;) {
    const layer = layers().at(-1),
      all = [...(layer || document.body).querySelectorAll("button, input, select, textarea, summary")];
    // The last one: what a control opens mostly follows it, and may be gone after the use of another one.
    const next = all.findLast(e => alive(e) && !e.matches(".close, #signout, #copy") && !seen.has(nameOf(e)));
    if (next) {
      seen.add(nameOf(next));
      if (!onlyOpen || opens(next)) await use(next);
    } else if (layer) {
      layer.close();
      await settle();
    } else break;
  }
  window.fetch = windowFetch;
  return JSON.stringify({ seen: [...seen], found });
}
