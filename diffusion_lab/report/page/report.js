"use strict";
const report = JSON.parse(document.getElementById("data").textContent);
const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const make = (tag, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};

// ---- light and dark --------------------------------------------------------------------------------------------------

const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
one("#theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("diffusion_lab theme", document.documentElement.dataset.theme); } catch { /* nowhere to keep it */ }
  redrawPlots();
});
dark.addEventListener("change", () => redrawPlots());

// ---- the table: sort, filter, choose ---------------------------------------------------------------------------------

// Values that were measured differently (another letter) stay apart; what has no value comes last in either direction.
function sortBy(heading) {
  const table = heading.closest("table");
  const place = [...heading.parentNode.children].indexOf(heading);
  const falling = heading.getAttribute("aria-sort") === "ascending";
  all("[aria-sort]", table).forEach((other) => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const keyed = all("tbody tr", table).map((row) => {
    const cell = row.children[place];
    const text = cell?.dataset.sort;
    return { row, letter: cell?.dataset.letter ?? "", number: text === undefined ? NaN : Number(text) };
  });
  keyed.sort((a, b) => {
    if (Number.isNaN(a.number) || Number.isNaN(b.number)) return Number.isNaN(a.number) - Number.isNaN(b.number);
    if (a.letter !== b.letter) return a.letter < b.letter ? -1 : 1;
    return falling ? b.number - a.number : a.number - b.number;
  });
  one("tbody", table).append(...keyed.map((entry) => entry.row));
}
all("thead th button").forEach((button) => button.addEventListener("click", () => sortBy(button.closest("th"))));

const wanted = new Map();
all("button.pill").forEach((pill) => pill.addEventListener("click", () => {
  const on = pill.getAttribute("aria-pressed") !== "true";
  pill.setAttribute("aria-pressed", on);
  const place = Number(pill.dataset.axis);
  const values = wanted.get(place) ?? new Set();
  if (on) values.add(pill.dataset.value); else values.delete(pill.dataset.value);
  if (values.size) wanted.set(place, values); else wanted.delete(place);
  all("tbody tr[data-row]").forEach((row) => {
    const choices = JSON.parse(row.dataset.choice);
    row.hidden = !choices.some((choice) => [...wanted].every(([axis, set]) => set.has(choice[axis])));
  });
}));

const chosen = new Set();
const preview = new Set(report.preview); // rows whose samples are shown until one is chosen
const rowOf = (number) => one(`tr[data-row="${number}"]`);
function choose(number, on = !chosen.has(number)) {
  if (on) { chosen.add(number); preview.clear(); } else { chosen.delete(number); preview.delete(number); }
  rowOf(number)?.setAttribute("aria-selected", on);
  showSamples();
}
all("tbody tr[data-row]").forEach((row) => {
  const toggle = () => { choose(Number(row.dataset.row)); offerSamples(); };
  row.addEventListener("click", () => { if (!String(getSelection())) toggle(); });
  row.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); toggle(); }
  });
});

// ---- samples at the same noise ---------------------------------------------------------------------------------------

const cards = new Map();
function showSamples() {
  const holder = one("#samples .cards");
  const shown = new Set([...chosen, ...preview]);
  for (const [number, card] of cards) if (!shown.has(number)) { card.remove(); cards.delete(number); }
  for (const number of shown) {
    if (cards.has(number) || !report.rows[number]) continue;
    cards.set(number, cardOf(number));
    holder.append(cards.get(number));
  }
  one("#samples .empty").hidden = cards.size > 0;
}

function cardOf(number) {
  const { label, value, pictures } = report.rows[number];
  const close = make("button", { type: "button", className: "close", textContent: "×", ariaLabel: `remove ${label}` });
  close.addEventListener("click", () => choose(number, false));
  const holder = make("div", { className: "picture" });
  const line = make("p", {}, value);
  const show = (picture, button) => {
    all(".seed", line).forEach((other) => other.setAttribute("aria-pressed", other === button));
    draw(picture, holder);
  };
  if (pictures.length > 1) {
    const seeds = make("span", { className: "seeds" }, "seed");
    line.append(" ", seeds);
    pictures.forEach((picture) => {
      const button = make("button", { type: "button", className: "seed", textContent: picture.seed });
      button.addEventListener("click", () => show(picture, button));
      seeds.append(button);
    });
  }
  const card = make("article", { className: "card" }, make("header", {}, make("b", {}, label), close), line, holder);
  card.dataset.row = number;
  if (pictures.length) show(pictures[0], one(".seed", line)); else holder.replaceWith(make("p", {}, "no samples.png"));
  return card;
}

function draw({ src, columns, rows, width, height }, holder) {
  const canvas = make("canvas");
  const mark = make("div", { className: "mark" });
  holder.replaceChildren(canvas, mark);
  const scale = columns * rows === 1 ? 1 : Math.max(1, Math.round(40 / width));
  const [stepX, stepY] = [width * scale + 2, height * scale + 2];
  canvas.width = columns * stepX - 2;
  canvas.height = rows * stepY - 2;
  const image = new Image();
  image.onload = () => {
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    for (let i = 0; i < columns * rows; i++) {
      const [x, y] = [i % columns, Math.floor(i / columns)];
      context.drawImage(image, x * width, y * height, width, height, x * stepX, y * stepY, width * scale, height * scale);
    }
    holder.dataset.drawn = "true";
  };
  image.src = src;
  if (columns * rows === 1) return;
  const share = (value) => `${100 * value}%`;
  holder.onpointermove = (event) => {
    const box = canvas.getBoundingClientRect();
    const x = Math.min(columns - 1, Math.floor(((event.clientX - box.left) / box.width) * columns));
    const y = Math.min(rows - 1, Math.floor(((event.clientY - box.top) / box.height) * rows));
    all(".picture .mark").forEach((other) => Object.assign(other.style, {
      display: "block", left: share(x / columns), top: share(y / rows), width: share(1 / columns), height: share(1 / rows),
    }));
  };
  holder.onpointerleave = () => all(".picture .mark").forEach((other) => { other.style.display = "none"; });
}

all("#contrast .picture").forEach((holder) => {
  const picture = report.contrast[Number(holder.dataset.picture)][holder.dataset.of];
  if (picture) draw(picture, holder); else { holder.nextElementSibling.remove(); holder.remove(); }
});

all("#nearest .picture").forEach((holder) => draw(report.nearest[Number(holder.dataset.picture)], holder));

const offer = one("#to-samples");
let samplesInView = false;
function offerSamples() {
  offer.textContent = `${chosen.size} chosen: see the samples ↓`;
  offer.hidden = samplesInView || chosen.size === 0 || one("#samples").hidden;
}
offer.addEventListener("click", () => { one("#samples").scrollIntoView({ behavior: "smooth" }); offer.hidden = true; });
if (Object.values(report.rows).some((row) => row.pictures.length)) {
  one("#samples").hidden = false;
  new IntersectionObserver(([entry]) => {
    samplesInView = entry.isIntersecting;
    if (samplesInView) offer.hidden = true;
  }, { rootMargin: "0px 0px -120px 0px" }).observe(one("#samples"));
  if (report.shown.length) report.shown.forEach((number) => choose(number, true)); else showSamples();
}

// ---- a line below what is wider than its place -------------------------------------------------------------------------

all(".scroll, .doubts").forEach((box) => {
  const more = make("p", { className: "note", textContent: "scroll →" });
  box.after(more);
  new ResizeObserver(() => { more.hidden = box.scrollWidth <= box.clientWidth; }).observe(box);
});

// ---- plots: drawn when they come into view, as each panel's data say --------------------------------------------------

const AXIS = {
  gridcolor: "--grid", linecolor: "--line", zeroline: false, automargin: true, title: { standoff: 6 }, exponentformat: "power",
  fixedrange: matchMedia("(pointer: coarse)").matches,
};
const TEMPLATE = {
  layout: {
    margin: { l: 8, r: 16, b: 8 }, paper_bgcolor: "--surface", plot_bgcolor: "--surface", hovermode: "closest", showlegend: false,
    font: { family: "system-ui, sans-serif", size: 12, color: "--soft" },
    title: { font: { size: 13, color: "--ink" }, x: 0.5, y: 0.98, yanchor: "top" },
    hoverlabel: { bgcolor: "--surface", bordercolor: "--line", font: { color: "--ink" }, align: "left" },
    shapedefaults: { type: "line", xref: "paper", x0: 0, x1: 1, line: { color: "--soft", width: 1, dash: "dot" }, label: { font: { size: 11 }, padding: 1 } },
    xaxis: AXIS, yaxis: AXIS,
  },
  data: { scatter: [{ textposition: "top right", textfont: { size: 11, color: "--soft" }, error_y: { thickness: 1.2, width: 3 } }] },
};
// Colours are names of variables of the form light-dark(#…, #…).
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).match(/#\w+/g)[Number(isDark())];
const themed = (node, key = "") => {
  if (Array.isArray(node)) return node.map((child) => themed(child));
  if (node && typeof node === "object") return Object.fromEntries(Object.entries(node).map(([k, child]) => [k, themed(child, k)]));
  return key.endsWith("color") ? css(node) : node;
};

function drawPlots(card) {
  const shown = one(".choice:not([hidden])", card);
  const hidden = new Set(all(".legend [aria-pressed=false]", shown).map((button) => button.dataset.name));
  const template = themed(TEMPLATE);
  for (const place of all(".panel", shown)) {
    const { data, layout } = themed(JSON.parse(place.dataset.figure));
    for (const trace of data) trace.visible = !hidden.has(trace.legendgroup);
    const fresh = !place.data;
    Plotly.react(place, data, { ...layout, template, uirevision: true }, { displayModeBar: false, responsive: true });
    if (fresh) place.on("plotly_click", ({ points }) => {
      const row = points[0]?.customdata?.[0];
      if (report.rows[row]) { choose(row); offerSamples(); }
    });
  }
  card.dataset.drawn = shown.dataset.plot;
}
const redrawPlots = () => all(".plot[data-drawn]").forEach(drawPlots);
for (const card of all(".plot")) {
  const choices = all(".choice", card);
  one("select", card)?.addEventListener("change", ({ target }) => {
    all(".panel", card).forEach((place) => Plotly.purge(place));
    choices.forEach((choice, i) => { choice.hidden = i !== target.selectedIndex; });
    drawPlots(card);
  });
  const buttons = all(".legend button", card);
  buttons.forEach((button) => button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    buttons.filter((other) => other.textContent === button.textContent).forEach((other) => other.setAttribute("aria-pressed", on));
    drawPlots(card);
  }));
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    drawPlots(card);
  }, { rootMargin: "300px" }).observe(card);
}
