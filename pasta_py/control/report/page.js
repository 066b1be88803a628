"use strict";
// Sorting and searching. The page says everything without it.
(function () {
  const tables = Array.from(document.querySelectorAll("table[data-rows]"));

  function key(row, column) {
    const cell = row.cells[column];
    const value = cell.getAttribute("data-v");
    return value === null ? cell.textContent.toLowerCase() : Number(value);
  }

  function sort(table, header) {
    const column = header.cellIndex;
    const down = header.getAttribute("aria-sort") === "ascending"
      || (!header.hasAttribute("aria-sort") && header.classList.contains("n"));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => [key(row, column), row]);
    rows.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0) * (down ? -1 : 1));
    body.append(...rows.map((pair) => pair[1]));
  }

  for (const table of tables) {
    for (const header of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      button.addEventListener("click", () => sort(table, header));
      header.append(button);
    }
  }

  const place = document.getElementById("search");
  if (!place) return;
  const label = document.createElement("label");
  const input = document.createElement("input");
  const said = document.createElement("span");
  label.textContent = "Search";
  label.htmlFor = input.id = "words";
  input.type = "search";
  input.placeholder = "name, address, port, reason";
  said.setAttribute("role", "status");
  said.className = "soft";
  place.append(label, input, said);
  const all = tables.flatMap((table) => Array.from(table.tBodies[0].rows, (row) => [row, row.textContent.toLowerCase()]));

  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const [row, text] of all) {
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    if (words.length) for (const more of document.querySelectorAll("details")) more.open = true;
    said.textContent = words.length ? shown + " of " + all.length + " rows" : "";
  });
})();
