"use strict";
// Sorting and filtering of tables that can be read without either. What rows say is read and moved, never made into HTML.

/** Rows in the order of one column; those that have nothing there come last, whichever way, and ties keep their order. */
function ordered(rows, keyOf, way) {
  const keyed = rows.map((row, place) => ({ row, place, key: keyOf(row) }));
  keyed.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.place - b.place;
    return (a.key < b.key ? -way : a.key > b.key ? way : 0) || a.place - b.place;
  });
  return keyed.map((one) => one.row);
}

/** Whether a text has every one of some words. */
function matches(text, words) {
  const found = text.toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => found.includes(word));
}

function key(cell, kind) {
  if (kind === "text") return cell.dataset.text.toLowerCase();
  return cell.dataset.order === "" ? null : Number(cell.dataset.order.replace("inf", "Infinity"));
}

const shown = document.getElementById("shown");

function sortBy(table, heads, column) {
  const head = heads[column];
  const first = head.dataset.better === "more" ? "descending" : "ascending";
  const other = first === "ascending" ? "descending" : "ascending";
  const way = head.getAttribute("aria-sort") === first ? other : first;
  heads.forEach((one) => one.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", way);
  const body = table.querySelector("tbody.rows");
  const byName = ordered([...body.rows], (row) => key(row.cells[0], "text"), 1);
  const keyOf = (row) => key(row.cells[column], head.dataset.kind);
  body.append(...ordered(byName, keyOf, way === "ascending" ? 1 : -1));
  shown.textContent = `sorted by ${head.querySelector("button").textContent}, ${way}`;
}

const tables = [...document.querySelectorAll("table.board")];
for (const table of tables) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(head.firstChild);
    button.addEventListener("click", () => sortBy(table, heads, column));
    head.prepend(button);
  });
}

const words = document.getElementById("words");

function filter() {
  let there = 0;
  let all = 0;
  for (const table of tables) {
    const rows = [...table.querySelector("tbody.rows").rows];
    for (const row of rows) {
      const text = [...row.querySelectorAll("[data-text]")].map((cell) => cell.dataset.text).join(" ");
      row.hidden = !matches(text, words.value.trim());
    }
    const left = rows.filter((row) => !row.hidden).length;
    table.closest("section").querySelector(".empty").hidden = left > 0;
    there += left;
    all += rows.length;
  }
  shown.textContent = `${there} of ${all} models`;
}

words.addEventListener("input", filter);
const form = document.getElementById("filter");
form.addEventListener("submit", (event) => event.preventDefault());
form.hidden = false;
