"""The one script a report page may carry: it sorts and filters tables that are whole without it."""

from __future__ import annotations

SCRIPT = r"""
"use strict";
(() => {
  // No markup is made from a string: data becomes text nodes and property values.
  const make = (name, properties, ...inside) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...inside);
    return made;
  };

  // One for all comparisons, as localeCompare would build one for each; "en": one order for every reader.
  const words = new Intl.Collator("en", { numeric: true });
  // null: an empty cell, or a number that is none.
  const key = (cell) => {
    const text = cell.dataset.value ?? cell.textContent;
    if (cell.classList.contains("number")) return Number.isNaN(Number(text)) ? null : Number(text);
    return cell.querySelector(".none") ? null : text;
  };
  const compare = (a, b) => {
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return typeof a === "number" ? (a > b) - (a < b) : words.compare(a, b);
  };

  const sortable = (table) => {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    heads.forEach((head, at) => {
      if (head.classList.contains("picture") || !head.textContent.trim()) return;
      const button = make("button", { type: "button" }, ...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        const sign = down ? -1 : 1;
        const keyed = [...body.rows].map((row) => [key(row.cells[at]), row]);
        // Nothing goes last either way; equals keep their order, so two sorts sort by two columns.
        keyed.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : sign * compare(a, b)));
        for (const [, row] of keyed) body.append(row);
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
      });
    });
  };

  const fold = (text) => text.normalize().toLowerCase();
  const shown = new Map(); // by id of a table: shows its rows of one tag, or all for null

  const filterable = (box) => {
    const rows = [...box.querySelector("tbody").rows];
    const region = box.querySelector(".scroll");
    const input = make("input", { type: "search", autocomplete: "off", spellcheck: false });
    input.setAttribute("aria-label", "Filter: " + region.getAttribute("aria-label"));
    const count = make("span", { className: "count" });
    const what = make("span");
    const all = make("button", { type: "button" }, "show all");
    const note = make("span", { className: "note", hidden: true }, what, " ", all);
    for (const live of [count, what]) live.setAttribute("aria-live", "polite");
    const tools = make("div", { className: "tools" });
    if ("filterable" in box.dataset) tools.append(make("label", {}, "Filter ", input));
    tools.append(count, note);
    box.prepend(tools);

    let tag = null;
    let texts = null;
    const update = () => {
      // No match runs on into the next cell: a line end cannot be typed.
      const wanted = fold(input.value);
      if (wanted) texts ??= rows.map((row) => fold([...row.cells].map((cell) => cell.textContent).join("\n")));
      let left = 0;
      rows.forEach((row, at) => {
        const worded = !wanted || texts[at].includes(wanted);
        const fits = worded && (tag === null || JSON.parse(row.dataset.tags).includes(tag));
        left += fits;
        if (row.hidden === fits) row.hidden = !fits;
      });
      const total = rows.length.toLocaleString("en");
      const some = left < rows.length || tag !== null || wanted;
      count.textContent = some ? left.toLocaleString("en") + " of " + total + " rows" : total + " rows";
      note.hidden = tag === null;
      what.textContent = tag === null ? "" : "showing " + tag;
    };
    input.addEventListener("input", update);
    all.addEventListener("click", () => {
      tag = null;
      input.value = "";
      update();
      location.hash = box.id;
      // The button is gone now; who pressed it by key must not be thrown back to the top.
      (input.isConnected ? input : region).focus({ preventScroll: true });
    });
    if (box.id && rows.some((row) => row.dataset.tags)) {
      shown.set(box.id, (wanted) => {
        if (wanted !== null) input.value = "";
        if (tag === wanted && wanted === null) return;
        tag = wanted;
        update();
      });
    }
    update();
  };

  for (const box of document.querySelectorAll(".listing")) {
    if ("sortable" in box.dataset) sortable(box.querySelector("table"));
    if ("filterable" in box.dataset || box.querySelector("tr[data-tags]")) filterable(box);
  }

  // The address holds what is shown, so Back undoes a filter and a copied link carries it.
  const follow = () => {
    const [id, ...rest] = location.hash.slice(1).split("?");
    if (!id) shown.forEach((show) => show(null));
    if (!shown.has(id)) return;
    let tag = rest.join("?") || null;
    try {
      // A bare % was typed by hand and stands for itself.
      tag = tag && decodeURIComponent(tag.replace(/%(?![\da-f]{2})/gi, "%25"));
    } catch {}
    shown.get(id)(tag);
    if (tag === null) return;
    const box = document.getElementById(id);
    for (let outer = box; (outer = outer.parentElement); ) if (outer.tagName === "DETAILS") outer.open = true;
    box.tabIndex = -1;
    box.focus({ preventScroll: true });
    box.scrollIntoView();
  };
  // As written these only jump: an address with a ? names no element.
  for (const link of document.querySelectorAll("a[data-filter]")) {
    link.hash += "?" + encodeURIComponent(link.dataset.filter);
    link.addEventListener("click", () => {
      if (link.hash === location.hash) follow(); // no hashchange will tell
    });
  }
  addEventListener("hashchange", follow);
  follow();

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const part of opened) part.open = true;
  });
  addEventListener("afterprint", () => {
    for (const part of opened) part.open = false;
  });
})();
"""
