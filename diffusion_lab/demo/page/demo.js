"use strict";
const form = document.querySelector("#controls");
const status = document.querySelector("#status");
const field = name => form.elements[name];
const WAIT_MS = 200; // so that a slider that is being moved asks once
let offers, timer, asked;

function fill(name, values, text = value => value) {
  field(name).replaceChildren(...values.map(value => new Option(text(value), value ?? "")));
}

function show(selector, shown) {
  document.querySelectorAll(selector).forEach(part => { part.hidden = !shown; });
}

function start(found) {
  offers = found;
  const { start } = offers;
  document.querySelector("#model").textContent = offers.model;
  const samplers = Object.keys(offers.samplers);
  fill("sampler", samplers);
  fill("spacing", offers.spacings);
  fill("guidance", offers.guidances);
  fill("label", [null, ...Array(offers.num_classes).keys()], value => value === null ? "any" : offers.class_names[value] ?? value);
  fill("compare", [null, ...offers.schedules], value => value ?? "none");
  field("num_steps").max = Math.min(offers.max_steps, 100) || 1;
  field("num_images").max = offers.max_images;
  field("seed").max = offers.max_seed;
  for (const [name, value] of Object.entries(start)) field(name).value = value ?? "";
  show(".sampler", samplers.length > 0);
  show(".guidance", offers.guidances.length > 1);
  show(".label", offers.num_classes > 0);
  update();
}

function values() {
  const word = name => field(name).value || null;
  const number = name => Math.round(Number(field(name).value));
  return {
    sampler: word("sampler"), spacing: word("spacing"), num_steps: number("num_steps"), guidance: word("guidance"),
    scale: Number(field("scale").value), label: word("label") === null ? null : number("label"), seed: number("seed"),
    num_images: number("num_images"), compare: word("compare"),
  };
}

function update() {
  for (const output of form.querySelectorAll("output")) output.value = field(output.htmlFor.value).value;
  show(".scale", offers.weighs.includes(field("guidance").value));
  clearTimeout(timer);
  timer = setTimeout(draw, WAIT_MS);
}

async function draw() {
  asked?.abort();
  const mine = asked = new AbortController();
  document.body.classList.add("busy");
  try {
    const reply = await fetch("/sample", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(values()), signal: mine.signal,
    });
    const answer = await reply.json();
    if (mine !== asked || answer.replaced) return;
    status.classList.toggle("failed", "error" in answer);
    status.textContent = answer.error ?? answer.summary;
    if (!("error" in answer)) {
      document.querySelector("#samples").src = `data:image/png;base64,${answer.png}`;
      document.querySelector("#command").textContent = answer.command;
      if (answer.curves) plot(answer.curves);
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    status.classList.add("failed");
    status.textContent = "The demo does not answer. Is diffusion-lab demo still running?";
  }
  if (mine === asked) document.body.classList.remove("busy");
}

function plot({ own, visited, compared }) {
  const [left, right, top, bottom] = [58, 624, 16, 216];
  const x = value => left + value * (right - left);
  const y = value => bottom - Math.min(value, 1.05) * (bottom - top) / 1.05;
  const part = (name, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const line = (points, kind, more = "") => part("path", {
    class: `${kind} ${more}`, d: points.x.map((t, i) => `${i ? "L" : "M"}${x(t).toFixed(1)} ${y(points[kind][i]).toFixed(1)}`).join(""),
  });
  const parts = [0, 0.5, 1].flatMap(value => [
    part("path", { class: "grid", d: `M${left} ${y(value)}H${right}` }),
    part("text", { x: left - 10, y: y(value) + 4, "text-anchor": "end" }, value),
  ]);
  parts.push(part("text", { x: left, y: 246 }, "t = 1: the image"), part("text", { x: right, y: 246, "text-anchor": "end" }, "t = T: noise"));
  for (const kind of ["signal", "noise"]) {
    if (compared) parts.push(line(compared, kind, "compared"));
    parts.push(line(own, kind));
    visited.x.forEach((t, i) => parts.push(part("circle", { class: kind, cx: x(t).toFixed(1), cy: y(visited[kind][i]).toFixed(1), r: 3.2 })));
  }
  document.querySelector("#curves").replaceChildren(...parts);
  show(".key.compared", Boolean(compared));
}

form.addEventListener("input", event => {
  if (event.target.name === "sampler") [field("spacing").value, field("num_steps").value] = offers.samplers[event.target.value];
  update();
});
form.addEventListener("submit", event => event.preventDefault());
document.querySelector("#again").addEventListener("click", () => {
  field("seed").value = Math.floor(Math.random() * 100000);
  update();
});
fetch("/offers").then(reply => reply.json()).then(start);
