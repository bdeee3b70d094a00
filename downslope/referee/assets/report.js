"use strict";
(() => {
  const points = JSON.parse(document.getElementById("race").textContent);
  const tip = document.getElementById("tip");
  const SVG = "http://www.w3.org/2000/svg";
  let ring = null;

  // A section's chips show and hide methods, its switch counts by step or by second.
  document.querySelectorAll("section[data-section]").forEach((section) => {
    section.querySelectorAll(".chip").forEach((chip) => chip.addEventListener("click", () => {
      const on = chip.getAttribute("aria-pressed") !== "true";
      chip.setAttribute("aria-pressed", String(on));
      section.querySelectorAll(`.m[data-m="${chip.value}"]`).forEach((group) => group.classList.toggle("off", !on));
      leave();
    }));
    section.querySelectorAll(".switch button").forEach((button) => button.addEventListener("click", () => {
      section.querySelectorAll(".switch button").forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
      section.querySelectorAll(".view").forEach((view) => {
        if (view.dataset.by) view.hidden = view.dataset.by !== button.value;
      });
      leave();
    }));
  });

  // Hover: the nearest point of a method that is shown.
  const numbers = (text) => text.split(" ").map(Number);
  function place(svg) {
    const [left, top, width, height] = numbers(svg.dataset.frame);
    const at = ([low, high, log], value) => {
      const f = log ? Math.log10 : (v) => v;
      return (f(value) - f(low)) / (f(high) - f(low) || 1);
    };
    const [x, y] = [numbers(svg.dataset.x), numbers(svg.dataset.y)];
    return (px, py) => [left + width * at(x, px), top + height * (1 - at(y, py))];
  }
  function nearest(svg, view, x, y) {
    const to = place(svg);
    let best = null;
    for (const [method, label, list] of points[view.dataset.key]) {
      if (svg.querySelector(`.m.off[data-m="${method}"]`)) continue;
      for (const [px, py, text] of list) {
        const [cx, cy] = to(px, py);
        const distance = Math.hypot(cx - x, cy - y);
        if (distance < (best?.distance ?? 40)) best = { distance, method, label, text, cx, cy };
      }
    }
    return best;
  }
  function leave() {
    tip.hidden = true;
    ring?.remove();
    ring = null;
  }
  function hover(event) {
    const svg = event.target.closest?.(".views svg");
    if (!svg) return leave();
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const found = nearest(svg, svg.closest(".view"), (event.clientX - box.left) * scale, (event.clientY - box.top) * scale);
    leave();
    if (!found) return;
    ring = document.createElementNS(SVG, "circle");
    for (const [name, value] of Object.entries({ class: `ring t${found.method % 8}`, cx: found.cx, cy: found.cy, r: 6 })) ring.setAttribute(name, value);
    svg.append(ring);
    const name = document.createElement("b");
    name.textContent = found.label;
    tip.replaceChildren(name, found.text);
    tip.hidden = false;
    const [x, y] = [box.left + found.cx / scale, box.top + found.cy / scale];
    tip.style.left = `${Math.max(8, Math.min(x + 12, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${y - tip.offsetHeight - 12 > 8 ? y - tip.offsetHeight - 12 : y + 14}px`;
  }
  document.addEventListener("pointermove", hover);
  document.addEventListener("pointerdown", hover);
  document.addEventListener("scroll", leave, { passive: true });

  // A figure as a file: what is shown, with title and legend; PNG in the light colours, which suit paper and slides.
  function drawing(figure) {
    leave();
    const view = [...figure.querySelectorAll(".view")].find((v) => !v.hidden);
    const svg = view.querySelector("svg").cloneNode(true);
    svg.querySelectorAll(".off").forEach((group) => group.remove());
    const [left, top, width] = numbers(svg.dataset.full);
    let [x, y] = [12, svg.viewBox.baseVal.height + 18];
    svg.querySelectorAll(".key").forEach((key) => { // the legend closes ranks
      const wide = Number(key.dataset.wide);
      if (x + wide > width && x > 12) [x, y] = [12, y + 20];
      key.setAttribute("transform", `translate(${x} ${y})`);
      x += wide;
    });
    const height = y + 14 - top;
    for (const name of Object.keys(svg.dataset)) delete svg.dataset[name];
    const box = [left, top, width, height].join(" ");
    for (const [name, value] of Object.entries({ viewBox: box, width, height })) svg.setAttribute(name, value);
    const style = document.createElementNS(SVG, "style");
    style.textContent = document.getElementById("figure-style").textContent;
    svg.prepend(style);
    return { svg, style, width, height, name: view.dataset.key };
  }
  function download(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  async function save(figure, kind) {
    const { svg, style, width, height, name } = drawing(figure);
    if (kind === "png") style.textContent = style.textContent.split("@media")[0];
    const blob = new Blob([new XMLSerializer().serializeToString(svg)], { type: "image/svg+xml" });
    if (kind === "svg") return download(blob, `${name}.svg`);
    const image = new Image();
    image.src = URL.createObjectURL(blob);
    await image.decode();
    const canvas = Object.assign(document.createElement("canvas"), { width: 2 * width, height: 2 * height });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    URL.revokeObjectURL(image.src);
    canvas.toBlob((png) => download(png, `${name}.png`), "image/png");
  }
  document.querySelectorAll(".save").forEach((button) => button.addEventListener("click", () => save(button.closest("figure"), button.value)));

  document.querySelectorAll(".copy").forEach((button) => button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "selected";
    }
  }));

  // Tables sort by a click on a column's head; what is missing stays last.
  document.querySelectorAll("table.sortable").forEach((table) => {
    const heads = [...table.querySelectorAll("thead th")];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((h) => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows];
      const numeric = rows.every((row) => key(row) === "" || Number.isFinite(Number(key(row))));
      rows.sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if ((x === "") !== (y === "")) return x === "" ? 1 : -1;
        const order = numeric ? Number(x) - Number(y) : x.localeCompare(y);
        return up ? order : -order;
      }).forEach((row) => table.tBodies[0].append(row));
    }));
  });
})();
