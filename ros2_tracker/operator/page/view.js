// The picture: the newest image with the boxes of that very image, or a frozen one, and the box being drawn.

export const COLORS = { TRACKING: "#3cdc60", UNCERTAIN: "#ffb000", LOST: "#f54242" };
const ACCENT = "#58a6ff";

export class View {
  #canvas;
  #stage;
  #frame = null; // {header, bitmap} shown now
  #latest = null; // the newest, while another is frozen
  #box = null; // [x, y, w, h] being drawn, px of the camera's image
  frozenSince = null;

  constructor(canvas, stage) {
    this.#canvas = canvas;
    this.#stage = stage;
    new ResizeObserver(() => this.draw()).observe(stage);
  }

  /** Header of the image on the screen, or null. */
  get header() {
    return this.#frame?.header ?? null;
  }

  get frozen() {
    return this.frozenSince !== null;
  }

  show(header, bitmap) {
    const frame = { header, bitmap };
    if (this.frozen) {
      this.#latest?.bitmap.close();
      this.#latest = frame;
      return;
    }
    this.#frame?.bitmap.close();
    this.#frame = frame;
    this.draw();
  }

  freeze() {
    if (this.#frame && !this.frozen) {
      this.frozenSince = performance.now();
      this.draw();
    }
  }

  resume() {
    this.frozenSince = null;
    this.#box = null;
    if (this.#latest) {
      this.#frame?.bitmap.close();
      this.#frame = this.#latest;
      this.#latest = null;
    }
    this.draw();
  }

  drawBox(box) {
    this.#box = box;
    this.draw();
  }

  /** Place of a pointer in the camera's image, px, kept inside it. */
  toImage(event) {
    const area = this.#canvas.getBoundingClientRect();
    const { width, height } = this.header;
    return [
      Math.min(Math.max(((event.clientX - area.left) / area.width) * width, 0), width),
      Math.min(Math.max(((event.clientY - area.top) / area.height) * height, 0), height),
    ];
  }

  /** How many px of the screen one of the camera's takes. */
  get scale() {
    return this.#canvas.getBoundingClientRect().width / this.header.width;
  }

  draw() {
    if (!this.#frame) return;
    const { header, bitmap } = this.#frame;
    const [width, height] = this.#fit(header);
    const pen = this.#canvas.getContext("2d");
    const density = this.#canvas.width / width;
    pen.setTransform(density, 0, 0, density, 0, 0);
    pen.drawImage(bitmap, 0, 0, width, height);
    const scale = width / header.width;
    for (const target of header.boxes) this.#target(pen, target, scale);
    if (this.#box) {
      pen.setLineDash([]);
      pen.lineWidth = 2;
      pen.strokeStyle = ACCENT;
      pen.fillStyle = "rgb(88 166 255 / 20%)";
      const [x, y, w, h] = this.#box.map((value) => value * scale);
      pen.fillRect(x, y, w, h);
      pen.strokeRect(x, y, w, h);
    }
    this.#canvas.dataset.stamp = header.stamp;
    this.#stage.classList.toggle("frozen", this.frozen);
  }

  /** Size of the canvas on the screen, as large as fits. */
  #fit(header) {
    const room = this.#stage.getBoundingClientRect();
    // Where the page scrolls, the stage is as high as the picture: then only its bound counts.
    const bound = parseFloat(getComputedStyle(this.#stage).maxHeight);
    const most = Number.isFinite(bound) ? bound : room.height;
    const scale = Math.min(room.width / header.width, most / header.height);
    const width = Math.floor(header.width * scale);
    const height = Math.floor(header.height * scale);
    const density = window.devicePixelRatio || 1;
    const [columns, rows] = [Math.round(width * density), Math.round(height * density)];
    if (this.#canvas.width !== columns || this.#canvas.height !== rows) {
      this.#canvas.width = columns;
      this.#canvas.height = rows;
      this.#canvas.style.width = `${width}px`;
      this.#canvas.style.height = `${height}px`;
    }
    return [width, height];
  }

  #target(pen, target, scale) {
    const [x, y, w, h] = target.box.map((value) => value * scale);
    const color = COLORS[target.state] ?? "#fff";
    // Dashed: where the motion model expects it, not where the network saw it.
    pen.setLineDash(target.predicted ? [6, 4] : []);
    pen.lineWidth = 4;
    pen.strokeStyle = "rgb(0 0 0 / 55%)";
    pen.strokeRect(x, y, w, h);
    pen.lineWidth = 2;
    pen.strokeStyle = color;
    pen.strokeRect(x, y, w, h);
    const text = `${target.id} ${Math.round(target.reliability * 100)} %`;
    pen.font = "600 13px system-ui, sans-serif";
    const wide = pen.measureText(text).width + 10;
    const top = y >= 20 ? y - 20 : y + h;
    pen.fillStyle = color;
    pen.fillRect(x - 1, top, wide, 20);
    pen.fillStyle = "#111";
    pen.fillText(text, x + 4, top + 14);
  }
}
