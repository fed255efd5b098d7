// The proxies in groups: by region, vendor, reason or state. A click on a group filters the list of proxies.
import { api } from "./api.js";
import { $, address, link, number, right, rows } from "./dom.js";
import { watch } from "./live.js";
import { filterBy, filterQuery } from "./proxies.js";

const by = $("groupby"),
  most = 30; // rows that are shown
by.value = address.get("group");

const round = watch({ views: ["proxies"], every: 2000, polled: 5000, shown: by }, async () => {
  const p = filterQuery();
  p.set("by", by.value);
  draw(by.value ? await api("proxy-groups?" + p) : { groups: [], total: 0 });
  return by.value !== "";
});

by.onchange = () => {
  address.set({ group: by.value });
  round();
};
document.addEventListener("filter", round);

function draw(g) {
  $("groups").closest(".groups").hidden = !by.value;
  rows(
    $("groups"),
    g.groups.slice(0, most),
    x => g.by + " " + x.name,
    x => [
      [name(g.by, x), x.name],
      [bar(x), x.failing + " " + x.proxies],
      right(number.format(x.failing) + " of " + number.format(x.proxies) + (x.failing === 1 ? " fails" : " fail")),
      right(x.banned ? number.format(x.banned) + " banned" : ""),
      g.by === "reason" ? "" : x.reason,
    ],
  );
  $("moregroups").textContent =
    by.value && g.total > most ? "the " + most + " of " + number.format(g.total) + " groups with the most failing proxies" : "";
}

// name returns the name of a group as a link to its proxies. The group of the proxies without a value gets no link,
// because the API cannot list these proxies.
function name(field, x) {
  if (!x.name) return field === "reason" ? "working" : "without a " + field;
  return link(x.name.replaceAll("_", "-"), () => filterBy({ [field]: x.name }), "show these proxies");
}

// bar draws the share of failing proxies.
function bar(x) {
  const b = document.createElement("span");
  b.className = "bar bad";
  const part = document.createElement("i");
  part.style.width = (100 * x.failing) / x.proxies + "%";
  b.append(part);
  return b;
}
