// A list of any length in the body of a table. Only the rows near the visible ones exist. A row that leaves the view is
// used again for an item that comes into it.

const margin = 8, // rows above and below the visible ones that exist as well
  ahead = 30, // rows that are requested beyond the visible ones while the user scrolls towards them
  keep = 250; // rows above and below the visible ones whose items are kept

// longList shows items in body, within box, which scrolls it. Each row is height px high. keyOf identifies an item.
// newRow returns a new row as an element, tr, and a function that writes an item into it, show. missing is called if
// items are needed that have not been put. first is the number of rows of the table above the list.
export function longList(box, body, { height, first, keyOf, newRow, missing }) {
  const items = new Map(), // by index
    rows = new Map(), // by key
    moved = new Set(); // elements that may not be in the order of the list
  let total = 0,
    visible = 10, // rows that fit in box
    top = 0, // index of the first visible item
    direction = 0, // 1 while the user scrolls down, -1 while up
    resting; // the timer of the end of a scroll

  const table = body.closest("table");
  table.setAttribute("aria-rowcount", first);

  // range returns the index of the first item to request, and how many.
  function range() {
    const from = Math.max(0, top - (direction < 0 ? ahead : margin)),
      to = top + visible + (direction > 0 ? ahead : margin);
    return { from, limit: to - from };
  }

  // put stores consecutive items and draws. from is the index of the first, n the length of the list.
  function put(from, list, n) {
    const keys = new Set(list.map(keyOf));
    for (const [i, item] of items) {
      const stale = i >= from && i < from + list.length;
      if (stale || i >= n || i < top - keep || i > top + visible + keep || keys.has(keyOf(item))) items.delete(i);
    }
    list.forEach((item, i) => items.set(from + i, item));
    if (total !== n) {
      total = n;
      body.style.height = Math.max(0, n * height - 1) + "px"; // without the line below the last row
      table.setAttribute("aria-rowcount", first + n);
    }
    draw();
  }

  // clear discards all items, so that they are requested again.
  function clear() {
    items.clear();
    box.scrollTop = top = direction = 0;
  }

  // update writes the items into their rows again.
  function update() {
    for (const row of rows.values()) row.show(row.item);
  }

  function draw() {
    const from = Math.max(0, top - margin),
      to = Math.min(total, top + visible + margin),
      out = row => row.index < from || row.index >= to,
      wanted = new Map(), // indices by key
      spare = []; // keys
    for (let i = from; i < to; i++) if (items.has(i)) wanted.set(keyOf(items.get(i)), i);
    for (const [key, row] of rows) {
      if (wanted.has(key)) continue;
      if (!hasFocus(row.tr)) spare.push(key);
      else if (!out(row) || row.index >= total) remove(key); // otherwise the row has the focus, and stays outside the view
    }
    for (const [key, i] of wanted) {
      const row = rows.get(key) || rename(spare.pop(), key);
      place(row, i);
      if (row.item === items.get(i)) continue;
      row.item = items.get(i);
      row.show(row.item);
    }
    // A scroll is cheaper if elements neither leave nor move within the document before its end. The Tab key needs
    // their order at once.
    const complete = !direction && wanted.size === to - from; // otherwise more items come soon
    for (const key of spare) if (complete || !out(rows.get(key))) remove(key);
    if (!direction || body.contains(document.activeElement)) arrange();
  }

  const hasFocus = tr => tr.contains(document.activeElement);

  function remove(key) {
    rows.get(key).tr.remove();
    rows.delete(key);
  }

  // rename returns the row with the key old, or a new one, under another key.
  function rename(old, key) {
    const row = rows.get(old) || newRow();
    rows.delete(old);
    rows.set(key, row);
    row.tr.dataset.key = key;
    if (!row.tr.parentNode) body.append(row.tr);
    moved.add(row.tr);
    return row;
  }

  function place(row, index) {
    if (row.index === index) return;
    row.index = index;
    row.tr.style.top = index * height + "px";
    row.tr.setAttribute("aria-rowindex", first + 1 + index);
  }

  // arrange puts the elements in the order of the list, for the Tab key and screen readers. The row with the focus would
  // lose it if it moved: the rows before it move instead.
  function arrange() {
    let at = body.firstElementChild;
    for (const { tr } of [...rows.values()].sort((a, b) => a.index - b.index)) {
      while (at && at !== tr && (hasFocus(tr) || (moved.has(at) && !hasFocus(at)))) {
        const next = at.nextElementSibling;
        if (hasFocus(tr)) body.append(at);
        at = next;
      }
      if (tr === at) at = at.nextElementSibling;
      else body.insertBefore(tr, at);
    }
    moved.clear();
  }

  function scroll() {
    const before = top;
    top = Math.floor(box.scrollTop / height);
    if (top === before) return;
    direction = Math.sign(top - before);
    clearTimeout(resting);
    resting = setTimeout(rest, 150);
    draw();
    const next = direction > 0 ? Math.min(total, top + visible + margin) - 1 : Math.max(0, top - margin);
    if (!items.has(next) || !items.has(top)) missing();
  }

  function rest() {
    direction = 0;
    draw();
  }

  box.addEventListener("scroll", scroll, { passive: true });
  new ResizeObserver(([e]) => {
    visible = Math.max(10, Math.ceil(e.contentRect.height / height));
  }).observe(box);

  return { range, put, update, clear };
}
