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
  all("tbody tr").forEach((row) => {
    const choice = JSON.parse(row.dataset.choice);
    row.hidden = [...wanted].some(([axis, set]) => !set.has(choice[axis]));
  });
}));

const chosen = new Set();
const rowOf = (number) => one(`tr[data-row="${number}"]`);
function choose(number, on = !chosen.has(number)) {
  if (on) chosen.add(number); else chosen.delete(number);
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
  for (const [number, card] of cards) if (!chosen.has(number)) { card.remove(); cards.delete(number); }
  for (const number of chosen) {
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
  report.shown.forEach((number) => choose(number, true));
}

// ---- plots -----------------------------------------------------------------------------------------------------------

const COLOURS = {
  light: ["#0072b2", "#d55e00", "#009e73", "#b85c99", "#c98a00", "#3f9fd4", "#777777", "#222222"],
  dark: ["#5aa9e6", "#ff8c42", "#3cc9a0", "#e39cc8", "#f0b429", "#8fd0f5", "#a8a8a8", "#ffffff"],
};
const DASHES = ["solid", "dash", "dot", "dashdot"];
const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "x", "cross"];
const FRONT = -1;
const MANY = 30; // points of a line that are not marked one by one
const cycle = (list, place) => list[place % list.length];
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colourOf = (series) => series.colour === FRONT ? css("--ink") : cycle(COLOURS[isDark() ? "dark" : "light"], series.colour);
const short = (value) => Number(value.toPrecision(4)).toString();

function traceOf(series, hidden) {
  const colour = colourOf(series);
  const many = series.x.length > MANY;
  const front = series.colour === FRONT;
  const trace = {
    type: "scatter", name: series.name, x: series.x, y: series.y, showlegend: false, customdata: series.rows,
    visible: !hidden.has(series.name), mode: series.dots ? "markers" : many ? "lines" : "lines+markers",
    line: { color: colour, width: many ? 1.5 : 2, dash: cycle(DASHES, series.line), shape: front ? "hv" : "linear" },
    marker: { color: colour, size: 8, symbol: cycle(SYMBOLS, series.line) },
    hovertemplate: "%{text}<extra></extra>",
    text: series.y.map((y, i) => {
      const row = report.rows[series.rows[i]];
      const error = series.error[i] ? ` ± ${short(series.error[i])}` : "";
      return `<b>${row ? row.html : series.html}</b><br>${short(series.x[i])}: ${short(y)}${error}`;
    }),
  };
  if (series.labels.length) {
    // the hover text stays whole, what is written at the point is short
    Object.assign(trace, { hovertext: trace.text, hovertemplate: "%{hovertext}<extra></extra>", text: series.labels });
    const around = css("--surface"); // readable where the line runs through it
    const shadow = `1px 1px 1px ${around}, -1px -1px 1px ${around}, 1px -1px 1px ${around}, -1px 1px 1px ${around}`;
    const textfont = { size: 11, color: css("--soft"), shadow };
    Object.assign(trace, { mode: `${trace.mode}+text`, textposition: "top right", textfont, cliponaxis: false });
  }
  if (front) Object.assign(trace.marker, { symbol: "circle-open", size: 15, line: { width: 1.5 } });
  if (series.faint) Object.assign(trace, { opacity: 0.3, hoverinfo: "skip", hovertemplate: undefined, text: undefined });
  if (series.error.some(Boolean)) trace.error_y = { type: "data", array: series.error, color: colour, thickness: 1.2, width: 3 };
  return trace;
}

// Ticks at 1, 2, 5, 10, … on up to two decades, at powers of ten beyond, written as plain numbers.
function logAxis([low, high]) {
  const steps = high / low < 200 ? [1, 2, 5] : [1];
  const values = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    values.push(...steps.map((step) => Number(`${step}e${power}`)));
  }
  return { type: "log", range: [Math.log10(low), Math.log10(high)], tickvals: values, ticktext: values.map(String) };
}
function spread(values, log, share) {
  const numbers = values.filter((value) => Number.isFinite(value) && (!log || value > 0));
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  if (log) { const room = (high / low || 1) ** share * 1.05; return [low / room, high * room]; }
  const room = (high - low || Math.abs(high) || 1) * share;
  return [low - room, high + room];
}
function axesOf(plot) {
  const series = plot.panels.flatMap((panel) => panel.series);
  const levels = plot.panels.flatMap((panel) => panel.levels.map((level) => level[1]));
  const ends = series.flatMap((s) => s.y.flatMap((y, i) => s.error[i] ? [y - s.error[i], y, y + s.error[i]] : [y]));
  const y = spread([...ends, ...levels], plot.log_y, 0.07);
  const x = spread(series.flatMap((s) => s.x), plot.log_x, 0.06);
  return { x: plot.log_x ? logAxis(x) : { range: x }, y: plot.log_y ? logAxis(y) : { range: y } };
}

function layoutOf(plot, panel) {
  const axes = axesOf(plot);
  const style = { gridcolor: css("--grid"), zeroline: false, linecolor: css("--line"), automargin: true, fixedrange: matchMedia("(pointer: coarse)").matches };
  const x = panel.categories.length
    ? { tickvals: panel.categories.map((_, i) => i), ticktext: panel.categories, range: [-0.4, panel.categories.length - 0.6] }
    : axes.x;
  return {
    margin: { l: 8, r: 8, t: panel.html ? 26 : 8, b: 8 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
    font: { family: "system-ui, sans-serif", size: 12, color: css("--soft") },
    hoverlabel: { bgcolor: css("--surface"), bordercolor: css("--line"), font: { color: css("--ink") }, align: "left" },
    title: { text: panel.html, font: { size: 13, color: css("--ink") }, x: 0.5, y: 0.98, yanchor: "top" },
    xaxis: { ...style, ...x, title: { text: plot.x_label, standoff: 6 } },
    yaxis: { ...style, ...axes.y, title: { text: plot.y_label, standoff: 6 } },
    shapes: panel.levels.map(([, level]) => ({
      type: "line", xref: "paper", x0: 0, x1: 1, y0: level, y1: level, line: { color: css("--soft"), width: 1, dash: "dot" },
    })),
    annotations: panel.levels.map(([name, level]) => ({
      xref: "paper", x: 1, xanchor: "right", yanchor: "bottom", y: plot.log_y ? Math.log10(level) : level, text: name,
      showarrow: false, font: { size: 11, color: css("--soft") },
    })),
  };
}

function legendOf(plot, hidden, redraw) {
  const named = new Map(plot.panels.flatMap((panel) => panel.series).filter((s) => !s.faint).reverse().map((s) => [s.name, s]));
  const holder = make("div", { className: "legend" });
  if (named.size < 2 || plot.panels[0].categories.length) return holder;
  for (const [name, series] of [...named].reverse()) {
    const swatch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    swatch.setAttribute("width", 26); swatch.setAttribute("height", 10); swatch.setAttribute("aria-hidden", "true");
    const dash = { solid: "", dash: "6 3", dot: "2 3", dashdot: "6 3 2 3" }[cycle(DASHES, series.line)];
    const shape = [
      '<circle cx="13" cy="5" r="3.6"/>', '<rect x="9.5" y="1.5" width="7" height="7"/>', '<path d="M13 .8 17 8.4H9z"/>',
      '<path d="M13 .6 17.4 5 13 9.4 8.600 5z"/>', '<path d="M13 9.200 9 1.600h8z"/>',
    ][series.line % 5];
    const line = series.dots ? "" : `<line x1="0" x2="26" y1="5" y2="5" stroke-width="2" stroke-dasharray="${dash}"/>`;
    const drawn = series.colour === FRONT ? line : line + (series.x.length > MANY ? "" : shape);
    swatch.innerHTML = `<g stroke="${colourOf(series)}" fill="${colourOf(series)}">${drawn}</g>`;
    const button = make("button", { type: "button" }, swatch, name);
    button.setAttribute("aria-pressed", !hidden.has(name));
    button.addEventListener("click", () => {
      if (hidden.has(name)) hidden.delete(name); else hidden.add(name);
      redraw();
    });
    holder.append(button);
  }
  return holder;
}

const drawnPlots = [];
function redrawPlots() { drawnPlots.forEach((redraw) => redraw()); }
function familyCard(family, plots) {
  const select = make("select", { ariaLabel: `what to show: ${family}` }, ...plots.map((plot, i) => new Option(plot.name, i)));
  const title = make("h3", {}, family);
  const head = make("header", {}, title, plots.length > 1 ? select : make("span", { className: "note" }, plots[0].name));
  const [panels, legend, note] = [make("div", { className: "panels" }), make("div"), make("p", { className: "note" })];
  const card = make("article", { className: "plot" }, head, panels, legend, note);
  if (plots.some((plot) => plot.panels.length > 1)) card.classList.add("broad");
  const hidden = new Set();
  function redraw() {
    const plot = plots[Number(select.value || 0)];
    while (panels.children.length > plot.panels.length) { Plotly.purge(panels.lastChild); panels.lastChild.remove(); }
    const fresh = plot.panels.slice(panels.children.length).map(() => make("div", { className: "panel" }));
    panels.append(...fresh); // all of them before the first is drawn: plotly asks each for its width
    plot.panels.forEach((panel, i) => {
      const place = panels.children[i];
      Plotly.react(place, panel.series.map((series) => traceOf(series, hidden)), layoutOf(plot, panel), { displayModeBar: false, responsive: true });
      if (fresh.includes(place)) place.on("plotly_click", ({ points }) => {
        const row = points[0]?.customdata;
        if (report.rows[row]) { choose(row); offerSamples(); }
      });
    });
    legend.replaceChildren(legendOf(plot, hidden, redraw));
    note.textContent = plot.note;
    card.dataset.drawn = plot.key;
  }
  select.addEventListener("change", redraw);
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    drawnPlots.push(redraw);
    redraw();
  }, { rootMargin: "300px" }).observe(card);
  return card;
}
for (const { title, plots } of report.plots) {
  const holder = one("#plots .plots");
  one("#plots").hidden = false;
  if (title) holder.append(make("h3", { className: "broad", style: "grid-column: 1 / -1" }, title));
  const families = new Map();
  plots.forEach((plot) => families.set(plot.family, [...(families.get(plot.family) ?? []), plot]));
  families.forEach((list, family) => holder.append(familyCard(family, list)));
}
