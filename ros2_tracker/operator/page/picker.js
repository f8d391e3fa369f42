// Pressing, dragging and letting go on the picture, by mouse, pen or finger.
//
// A press freezes the image. Letting go after a drag sends the box; after a mere tap the image stays frozen, so that a
// box can be drawn at leisure, and the next tap goes back to live images.

const LEAST_SCREEN_PX = 6;

export class Picker {
  #view;
  #chosen;
  #pointer = null; // {id, start, wasLive}

  /** `chosen(stamp, box)` is called with a box, px of the camera's image, and says whether it was sent. */
  constructor(canvas, view, chosen) {
    this.#view = view;
    this.#chosen = chosen;
    canvas.addEventListener("pointerdown", (event) => this.#press(canvas, event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#release(event));
    canvas.addEventListener("pointercancel", (event) => this.#abandon(event));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  /** Whether a box is being drawn. */
  get busy() {
    return this.#pointer !== null;
  }

  #press(canvas, event) {
    if (this.#pointer || !event.isPrimary || event.button !== 0 || !this.#view.header) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    const wasLive = !this.#view.frozen;
    this.#view.freeze();
    this.#pointer = { id: event.pointerId, start: this.#view.toImage(event), wasLive };
  }

  #move(event) {
    if (event.pointerId === this.#pointer?.id) this.#view.drawBox(this.#box(event));
  }

  #release(event) {
    if (event.pointerId !== this.#pointer?.id) return;
    const box = this.#box(event);
    const { wasLive } = this.#pointer;
    this.#pointer = null;
    this.#view.drawBox(null);
    const stamp = this.#view.header.stamp;
    // What could not be sent can be drawn again, on the same image.
    if (box ? this.#chosen(stamp, box) : !wasLive) this.#view.resume();
  }

  #abandon(event) {
    if (event.pointerId !== this.#pointer?.id) return;
    const { wasLive } = this.#pointer;
    this.#pointer = null;
    this.#view.drawBox(null);
    if (wasLive) this.#view.resume();
  }

  /** The box between press and pointer; null as long as it is no more than a tap. */
  #box(event) {
    const [x0, y0] = this.#pointer.start;
    const [x1, y1] = this.#view.toImage(event);
    const box = [Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0)];
    const least = LEAST_SCREEN_PX / this.#view.scale;
    return Math.min(box[2], box[3]) < least ? null : box;
  }
}
