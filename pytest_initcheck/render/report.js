"use strict";
(() => {
  const root = document.querySelector(".initcheck.page");
  const all = (selector, inside = root) => [...inside.querySelectorAll(selector)];

  // Theme: what the system asks for, until somebody says otherwise.
  const stored = { get: () => { try { return localStorage.getItem("initcheck-theme"); } catch { return null; } },
                   set: (v) => { try { localStorage.setItem("initcheck-theme", v); } catch { /* a file may have no storage */ } } };
  if (stored.get()) root.dataset.theme = stored.get();
  const toggle = root.querySelector(".theme");
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    stored.set(root.dataset.theme);
  });

  // Code to copy.
  for (const pre of all("pre.copy")) {
    if (!navigator.clipboard) break;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(pre.querySelector("code").textContent);
      button.textContent = "copied";
    });
    pre.append(button);
  }

  // Tables: a click on a heading sorts, words filter.
  const key = (cell) => {
    const text = cell.dataset.v ?? cell.textContent;
    const value = text.trim() === "" ? NaN : Number(text.replace(/^(-?)inf$/, "$1Infinity"));
    return Number.isNaN(value) ? text : value;
  };
  const compare = (a, b) => {
    if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
    return typeof a === "number" ? -1 : 1;
  };
  for (const table of all("table")) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    table.classList.add("sortable");
    heads.forEach((head, column) => {
      if (head.classList.contains("w")) for (const row of rows) row.cells[column].classList.add("w");
      const sort = () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const keyed = rows.map((row, i) => [key(row.cells[column]), i, row]);
        keyed.sort((a, b) => (up ? 1 : -1) * compare(a[0], b[0]) || a[1] - b[1]);
        body.append(...keyed.map((entry) => entry[2]));
      };
      head.addEventListener("click", sort);
      head.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(); }
      });
    });
    const tools = table.closest(".records").querySelector(".tools");
    tools.classList.add("on");
    const texts = rows.map((row) => row.textContent.toLowerCase());
    tools.querySelector("input").addEventListener("input", (event) => {
      const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      rows.forEach((row, i) => {
        row.hidden = !words.every((word) => texts[i].includes(word));
        count += !row.hidden;
      });
      tools.querySelector(".matches").textContent = words.length ? `${count} of ${rows.length}` : "";
    });
  }

  // Charts: the layer under the pointer, in both charts and in words; a click shows its row.
  for (const article of all("article")) {
    const areas = all(".area", article);
    const readout = article.querySelector(".readout");
    const row = (i) => article.querySelector(`tr[data-i~="${i}"]`);
    const cursors = areas.map((area) => {
      const line = document.createElement("div");
      line.className = "cursor";
      line.hidden = true;
      area.append(line);
      return line;
    });
    areas.forEach((area) => {
      const count = Number(area.closest("figure").dataset.count);
      const place = (event) => {
        const box = area.getBoundingClientRect();
        return Math.min(count - 1, Math.max(0, Math.floor((event.clientX - box.left) / box.width * count)));
      };
      area.addEventListener("pointermove", (event) => {
        const i = place(event);
        const found = row(i);
        for (const cursor of cursors) { cursor.hidden = false; cursor.style.left = `${(i + 0.5) / count * 100}%`; }
        if (found) {
          const heads = [...found.closest("table").tHead.rows[0].cells];
          readout.textContent = heads.map((h, k) => `${k ? h.textContent + " " : ""}${found.cells[k].textContent.trim()}`).join(", ");
        }
      });
      area.addEventListener("pointerleave", () => { for (const cursor of cursors) cursor.hidden = true; });
      area.addEventListener("click", (event) => {
        const found = row(place(event));
        if (!found) return;
        for (const other of all("tr.here", article)) other.classList.remove("here");
        found.closest("details").open = true;
        found.hidden = false;
        found.classList.add("here");
        found.scrollIntoView({ block: "center" });
      });
    });
  }
})();
