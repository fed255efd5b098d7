// The page /docs shows openapi.json. It needs no network but the gateway itself.
"use strict";

const methods = ["get", "post", "put", "patch", "delete"];
let spec = {}; // openapi.json

function el(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  e.append(...children.filter(c => c !== null && c !== undefined));
  return e;
}

// resolve returns the object that a reference stands for.
function resolve(x) {
  while (x && x.$ref) x = x.$ref.slice(2).split("/").reduce((o, key) => o[key], spec);
  return x || {};
}

// inline turns the `code` of a text into elements.
function inline(text) {
  return text.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));
}

// blocks turns a description into paragraphs and tables.
function blocks(text = "") {
  return text
    .trim()
    .split(/\n\s*\n/)
    .filter(Boolean)
    .map(block => {
      if (!block.startsWith("|")) return el("p", {}, ...inline(block.replaceAll("\n", " ")));
      const lines = block.split("\n").filter(line => !/^\|[-| ]+\|$/.test(line));
      return el(
        "table",
        {},
        ...lines.map((line, i) =>
          el(
            "tr",
            {},
            ...line
              .split("|")
              .slice(1, -1)
              .map(c => el(i ? "td" : "th", {}, ...inline(c.trim()))),
          ),
        ),
      );
    });
}

// typeOf describes the values of a schema in a few words.
function typeOf(schema) {
  const s = resolve(schema);
  if (s.allOf) return typeOf({ ...resolve(s.allOf[0]), ...s, allOf: undefined });
  if (s.oneOf) return s.oneOf.map(typeOf).join(" or ");
  if (s.enum) return s.enum.map(v => JSON.stringify(v)).join(" | ");
  const limits = [];
  if (s.minimum !== undefined) limits.push((s.exclusiveMinimum ? "> " : "≥ ") + s.minimum);
  if (s.maximum !== undefined) limits.push("≤ " + s.maximum);
  if (s.maxLength !== undefined) limits.push("at most " + s.maxLength + " characters");
  if (s.maxItems !== undefined) limits.push("at most " + s.maxItems + " elements");
  if (s.pattern) limits.push("matches " + s.pattern);
  if (s.default !== undefined) limits.push("default " + JSON.stringify(s.default));
  if (s.nullable) limits.push("or null");
  const type = s.type === "array" ? "list of " + typeOf(s.items) : s.format || s.type || "any value";
  return [type, ...limits].join(", ");
}

// outline returns a schema as text that looks like the JSON which the schema describes, with one field on each line.
function outline(schema, indent = "", depth = 0) {
  let s = resolve(schema);
  if (s.allOf) {
    const parts = s.allOf.map(resolve);
    s = {
      type: "object",
      properties: Object.assign({}, ...parts.map(p => p.properties)),
      required: parts.flatMap(p => p.required || []),
    };
  }
  if (s.oneOf) return s.oneOf.map(o => outline(o, indent, depth)).join("\n" + indent + "or\n" + indent);
  if (s.type === "array") return "[" + outline(s.items, indent, depth) + ", …]";
  if (!s.properties || depth > 4) {
    const values = s.additionalProperties;
    return typeof values === "object" ? "{ NAME: " + outline(values, indent, depth + 1) + ", … }" : typeOf(s);
  }
  const inner = indent + "  ";
  const fields = Object.entries(s.properties).map(([name, field]) => {
    const f = resolve(field),
      optional = (s.required || []).includes(name) ? "" : "?";
    const text = field.description || f.description;
    return inner + name + optional + ": " + outline(field, inner, depth + 1) + (text ? "  // " + text.trim() : "");
  });
  return "{\n" + fields.join("\n") + "\n" + indent + "}";
}

function parametersOf(list) {
  if (!list.length) return [];
  const rows = list.map(resolve).map(p =>
    el(
      "tr",
      {},
      el("td", {}, el("code", {}, p.name), p.required ? " (required)" : ""),
      el("td", {}, p.in),
      el("td", {}, typeOf(p.schema)),
      el("td", {}, ...inline(p.description || resolve(p.schema).description || "")),
    ),
  );
  return [el("h4", {}, "Parameters"), el("div", { class: "scroll", tabindex: 0 }, el("table", {}, ...rows))];
}

// exampleText returns an example as text: a text as it is, another value as JSON.
function exampleText(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

// contentOf shows the schemas of a body by media type.
function contentOf(title, content = {}) {
  return Object.entries(content).flatMap(([kind, c]) => [
    el("h4", {}, title + ", " + kind),
    el("pre", { tabindex: 0 }, outline(c.schema) + (c.example === undefined ? "" : "\n\nfor example\n" + exampleText(c.example))),
  ]);
}

function articleOf(method, path, item, o) {
  const responses = Object.entries(o.responses).flatMap(([status, r]) => {
    if (status === "default") return []; // the errors of all operations are alike, and shown once
    const response = resolve(r),
      title = "Response " + status;
    return response.content ? contentOf(title, response.content) : [el("h4", {}, title + ", without a body")];
  });
  return el(
    "article",
    { id: o.operationId },
    el("h3", {}, el("code", { class: "method" }, method.toUpperCase()), el("code", {}, "/api/v1" + path)),
    el("p", {}, o.summary),
    ...blocks(o.description),
    ...parametersOf([...(item.parameters || []), ...(o.parameters || [])]),
    ...contentOf("Body", resolve(o.requestBody).content),
    ...responses,
  );
}

function show(doc) {
  spec = doc;
  const contents = document.getElementById("contents"),
    operations = document.getElementById("operations");
  operations.replaceChildren(
    el("h2", {}, "All operations"),
    el(
      "article",
      {},
      ...blocks(doc.info.description),
      el("h3", {}, "A request that fails"),
      ...contentOf("Response", doc.components.responses.Error.content),
    ),
  );
  for (const tag of doc.tags) {
    contents.append(el("h2", {}, tag.name));
    operations.append(el("h2", {}, tag.name + ": " + tag.description));
    for (const [path, item] of Object.entries(doc.paths))
      for (const method of methods) {
        const o = item[method];
        if (!o || o.tags[0] !== tag.name) continue;
        contents.append(el("a", { href: "#" + o.operationId }, method.toUpperCase() + " " + path));
        operations.append(articleOf(method, path, item, o));
      }
  }
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

fetch("api/v1/openapi.json")
  .then(response => response.json())
  .then(show)
  .catch(e => {
    document.getElementById("problem").textContent = "openapi.json cannot be read: " + e.message;
  });
