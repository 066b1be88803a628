// Runs the script of a report under Node, on as much of a document as it uses: `node report_script.js PAGE` prints what it did.
"use strict";
const fs = require("node:fs");
const html = fs.readFileSync(process.argv[2], "utf8");
const script = /<script>([\s\S]*)<\/script>/.exec(html)[1];

class Element {
  constructor(name, text) {
    this.name = name; this.text = text || ""; this.attributes = {}; this.listeners = {}; this.children = []; this.hidden = false; this.open = false;
    this.classList = { contains: (word) => (this.attributes.class || "").split(" ").includes(word) };
  }
  get textContent() { return this.text + this.children.map((child) => child.textContent).join(" "); }
  set textContent(text) { this.text = text; this.children = []; }
  get childNodes() { const text = new Element("#text", this.text); this.text = ""; const all = [...this.children, text]; this.children = []; return all; }
  append(...more) { for (const child of more) { this.children = this.children.filter((other) => other !== child); this.children.push(child); } }
  getAttribute(name) { return name in this.attributes ? this.attributes[name] : null; }
  setAttribute(name, value) { this.attributes[name] = String(value); }
  hasAttribute(name) { return name in this.attributes; }
  removeAttribute(name) { delete this.attributes[name]; }
  addEventListener(name, f) { this.listeners[name] = f; }
}

const plain = (text) => text.replace(/<[^>]*>/g, " ").replace(/\s+/g, " ").trim();
function attribute(source, name) { const found = new RegExp(` ${name}="([^"]*)"`).exec(source); return found && found[1]; }
function cells(row, tag) {
  return Array.from(row.matchAll(new RegExp(`<${tag}( [^>]*)?>([\\s\\S]*?)</${tag}>`, "g")), (match, index) => {
    const cell = new Element(tag, plain(match[2]));
    for (const name of ["class", "data-v"]) { const value = attribute(match[1] || "", name); if (value !== null) cell.attributes[name] = value; }
    cell.cellIndex = index;
    return cell;
  });
}
const tables = Array.from(html.matchAll(/<table id="\w+" data-rows="\d+">[\s\S]*?<\/table>/g), ([source]) => {
  const table = new Element("table"), body = new Element("tbody"), head = new Element("thead"), top = new Element("tr");
  top.cells = cells(source, "th");
  head.rows = [top]; table.tHead = head; table.tBodies = [body];
  for (const [line] of source.matchAll(/<tr><td[\s\S]*?<\/tr>/g)) {
    const row = new Element("tr", plain(line));
    row.cells = cells(line, "td");
    body.children.push(row);
  }
  Object.defineProperty(body, "rows", { get: () => body.children });
  return table;
});
const search = new Element("div"), details = [new Element("details")];
globalThis.document = {
  querySelectorAll: (what) => (what === "details" ? details : tables),
  getElementById: (id) => (id === "search" && html.includes('id="search"') ? search : null),
  createElement: (name) => new Element(name),
};
(0, eval)(script);

const column = (table, name) => table.tHead.rows[0].cells.find((cell) => cell.textContent.trim() === name);
const table = tables.find((each) => column(each, "Received") && column(each, "Connections"));
const out = { rows: tables.map((each) => each.tBodies[0].rows.length) };
const values = (name) => table.tBodies[0].rows.map((row) => Number(row.cells[column(table, name).cellIndex].getAttribute("data-v")));
const hosts = () => table.tBodies[0].rows.map((row) => row.cells[0].textContent);
column(table, "Received").children[0].listeners.click();
out.down = values("Received");
out.sort = column(table, "Received").getAttribute("aria-sort");
column(table, "Received").children[0].listeners.click();
out.up = values("Received");
column(table, "Host").children[0].listeners.click();
out.hosts = hosts();
const input = search.children.find((child) => child.name === "input"), said = search.children.find((child) => child.name === "span");
input.value = process.argv[3];
input.listeners.input();
out.found = tables.map((each) => each.tBodies[0].rows.filter((row) => !row.hidden).length);
out.said = said.textContent;
input.value = "";
input.listeners.input();
out.all = tables.map((each) => each.tBodies[0].rows.filter((row) => !row.hidden).length);
console.log(JSON.stringify(out));
