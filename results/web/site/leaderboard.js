/* Sorting, filtering and paging of the leaderboard. Whatever models wrote enters the page as text, never as markup. */
"use strict";

(() => {
  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };

  // Control characters are shown as their Unicode pictures, so escape sequences are visible.
  const visible = (text) =>
    text.replace(/[\u0000-\u0008\u000b-\u001f\u007f]/g, (letter) =>
      String.fromCharCode(letter === "\u007f" ? 0x2421 : 0x2400 + letter.charCodeAt(0)));

  // Sorting

  const valueOf = (row, place) => {
    const cell = row.cells[place];
    if (!cell || cell.dataset.value === "") return null;
    return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
  };

  const compareValues = (a, b) =>
    typeof a === "number" && typeof b === "number"
      ? a - b
      : String(a).localeCompare(String(b), undefined, { numeric: true });

  const sortBy = (table, header) => {
    const place = header.cellIndex;
    const before = header.getAttribute("aria-sort");
    const first = header.dataset.first || "ascending";
    const order = before === "ascending" ? "descending" : before === "descending" ? "ascending" : first;
    const sign = order === "ascending" ? 1 : -1;
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [valueOf(row, place), row]);
    rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compareValues(a, b)));
    body.append(...rows.map(([, row]) => row));
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", order);
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const button of table.tHead.querySelectorAll("button")) {
      button.addEventListener("click", () => sortBy(table, button.closest("th")));
    }
  }

  // Filtering

  const words = (input) => input.value.toLowerCase().split(/\s+/).filter(Boolean);
  const board = document.getElementById("board");
  if (board) {
    const models = document.getElementById("filter-models");
    const tasks = document.getElementById("filter-tasks");
    const count = document.getElementById("filter-count");
    const apply = () => {
      const wanted = words(models);
      let shown = 0;
      for (const row of board.tBodies[0].rows) {
        row.hidden = !wanted.every((word) => row.dataset.text.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      const columns = words(tasks);
      for (const header of board.tHead.rows[0].cells) {
        if (header.dataset.task === undefined) continue;
        const hidden = columns.length > 0 && !columns.some((word) => header.dataset.task.includes(word));
        if (header.hidden === hidden) continue;
        for (const row of board.rows) row.cells[header.cellIndex].hidden = hidden;
      }
      count.textContent = `${shown} of ${board.tBodies[0].rows.length} models`;
    };
    models.addEventListener("input", apply);
    tasks.addEventListener("input", apply);
    apply();
  }

  // Answers, a file at a time

  const waiting = new Map();
  window.crosstokAnswers = (content) => {
    const key = `${content.cell}/${content.page}`;
    waiting.get(key)?.(content);
    waiting.delete(key);
  };

  const preformatted = (label, text) => [
    element("p", { class: "soft" }, label),
    element("pre", { tabindex: "0" }, visible(text)),
  ];

  const answer = (one) => {
    const facts = [
      one.stop && `stop reason: ${one.stop}`, `${one.bytes} bytes`, `${one.tokens} tokens`,
      one.nats !== null && one.bytes > 0 && `${(one.nats / Math.LN2 / one.bytes).toFixed(4)} bits/byte`,
    ].filter(Boolean).join(", ");
    const status = one.status ? [element("span", { class: one.status === "passed" ? "passed" : "bad" }, one.status), ", "] : [];
    const summary = element("summary", {}, element("b", {}, visible(one.document)), " ", ...status, facts);
    const details = element("details", {}, summary);
    details.addEventListener("toggle", () => {
      if (details.childElementCount > 1) return;
      if (one.error) details.append(...preformatted("verdict", one.error));
      if (one.prompt) details.append(...preformatted("prompt", one.prompt));
      details.append(...(one.text ? preformatted("answer", one.text) : [element("p", { class: "soft" }, "The answer is empty.")]));
    });
    return details;
  };

  for (const section of document.querySelectorAll("section.answers")) {
    const pages = Number(section.dataset.pages);
    const list = element("div", { class: "list" });
    const label = element("span", { role: "status" });
    const step = (by, text) => {
      const button = element("button", { type: "button" }, text);
      button.addEventListener("click", () => show(current + by));
      return button;
    };
    let current = 0;
    const back = step(-1, "Previous");
    const next = step(1, "Next");
    const pager = element("div", { class: "pager", hidden: "" }, back, label, next);
    const open = element("button", { type: "button", class: "open" }, "Show answers");
    const show = (page) => {
      const script = element("script", { src: `../answers/${section.dataset.cell}/${page}.js` });
      waiting.set(`${section.dataset.cell}/${page}`, (content) => {
        current = page;
        list.replaceChildren(...content.answers.map(answer));
        label.textContent = `${content.first} to ${content.first + content.answers.length - 1} of ${content.of}`;
        back.disabled = page === 1;
        next.disabled = page === pages;
        pager.hidden = pages === 1;
        const held = document.activeElement;
        if (held === open || held.disabled) list.querySelector("summary").focus(); // what held the focus is gone
        open.hidden = true;
      });
      script.addEventListener("error", () => { label.textContent = "The file with these answers is missing."; pager.hidden = false; });
      script.addEventListener("load", () => script.remove());
      document.head.append(script);
    };
    open.addEventListener("click", () => show(1));
    section.append(open, pager, list);
  }
})();
