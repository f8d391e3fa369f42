// The list of targets: id, state, reliability and its curve, a button to cancel each.

import { COLORS } from "./view.js";

const CURVE_S = 20;
const STALE_S = 0.7;

export class Targets {
  #list;
  #cancel;
  #rows = new Map(); // id -> {item, state, percent, canvas, curve: [[t, reliability, state]]}
  #curves = {};

  /** `cancel(id)` is called by the buttons. */
  constructor(list, cancel) {
    this.#list = list;
    this.#cancel = cancel;
  }

  get ids() {
    return [...this.#rows.keys()];
  }

  /** Curves of the past, as the server tells them at the start of a connection. */
  restore(curves) {
    this.#curves = curves;
    for (const [id, row] of this.#rows) row.curve = curves[id] ?? [];
  }

  update(targets, now) {
    const present = new Set(targets.map((target) => target.id));
    for (const [id, row] of this.#rows) {
      if (!present.has(id)) {
        row.item.remove();
        this.#rows.delete(id);
        delete this.#curves[id];
      }
    }
    for (const target of targets) {
      const row = this.#rows.get(target.id) ?? this.#add(target.id);
      row.item.dataset.state = target.state;
      row.item.classList.toggle("stale", target.age > STALE_S);
      row.state.textContent = target.state + (target.predicted ? " (predicted)" : "");
      const note = target.calibrated ? "" : " (not calibrated)";
      row.percent.textContent = `${Math.round(target.reliability * 100)} %${note}`;
      if (target.age <= STALE_S) row.curve.push([now, target.low, target.state]);
      while (row.curve.length && now - row.curve[0][0] > CURVE_S) row.curve.shift();
      row.canvas.dataset.points = row.curve.length;
      draw(row.canvas, row.curve, now);
    }
  }

  #add(id) {
    const item = document.createElement("li");
    item.dataset.id = id;
    const top = item.appendChild(document.createElement("div"));
    top.className = "row";
    const cell = (name, kind = "span") => {
      const element = top.appendChild(document.createElement(kind));
      element.className = name;
      return element;
    };
    cell("id").textContent = id;
    const [state, percent, button] = [cell("state"), cell("percent"), cell("cancel", "button")];
    button.textContent = "Cancel";
    button.setAttribute("aria-label", `Cancel ${id}`);
    button.addEventListener("click", () => this.#cancel(id));
    const canvas = item.appendChild(document.createElement("canvas"));
    canvas.setAttribute("aria-label", `Reliability of ${id} over the last ${CURVE_S} seconds`);
    this.#list.append(item);
    const row = { item, state, percent, canvas, curve: this.#curves[id] ?? [] };
    this.#rows.set(id, row);
    return row;
  }
}

function draw(canvas, curve, now) {
  const area = canvas.getBoundingClientRect();
  const density = window.devicePixelRatio || 1;
  const [width, height] = [area.width, area.height];
  if (canvas.width !== Math.round(width * density)) canvas.width = Math.round(width * density);
  if (canvas.height !== Math.round(height * density)) canvas.height = Math.round(height * density);
  const pen = canvas.getContext("2d");
  pen.setTransform(density, 0, 0, density, 0, 0);
  pen.clearRect(0, 0, width, height);
  const across = (t) => width * (1 - (now - t) / CURVE_S);
  const up = (value) => 3 + (height - 6) * (1 - value);
  pen.lineWidth = 1;
  pen.strokeStyle = "#2a3442";
  for (const value of [0, 0.5, 1]) {
    pen.beginPath();
    pen.moveTo(0, up(value));
    pen.lineTo(width, up(value));
    pen.stroke();
  }
  pen.fillStyle = "#93a1b3";
  pen.font = "10px system-ui, sans-serif";
  pen.fillText(`${CURVE_S} s ago`, 4, height - 6);
  pen.lineWidth = 2;
  for (let i = 1; i < curve.length; i += 1) {
    const [before, point] = [curve[i - 1], curve[i]];
    if (point[0] - before[0] > 1) continue; // nothing was heard in between
    pen.strokeStyle = COLORS[point[2]] ?? "#fff";
    pen.beginPath();
    pen.moveTo(across(before[0]), up(before[1]));
    pen.lineTo(across(point[0]), up(point[1]));
    pen.stroke();
  }
}
