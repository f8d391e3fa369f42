// Puts the page together.

import { Link } from "./link.js";
import { Picker } from "./picker.js";
import { Targets } from "./targets.js";
import { View } from "./view.js";

const MOST_MESSAGES = 30;
const FIRST_STATUS_HINT_MS = 1500;
const BAD_EVENTS = new Set(["REJECTED", "LOST"]);

const at = (id) => document.getElementById(id);
const view = new View(at("picture"), at("stage"));
const targets = new Targets(at("targets"), (id) => command("cancel", { id }, `cancel ${id}`));
const asked = new Map(); // number of a command -> {what, stamp}: what it was and, of a box, on which image
const pending = new Map(); // stamp of a box -> timer, until the tracker says what became of it
let newest = 0; // sequence of the last frame shown

const link = new Link({
  state: (kind, text) => {
    at("link").dataset.state = kind;
    at("link").textContent = text;
    if (kind !== "good") at("cancel-all").disabled = true;
  },
  hello: (message) => {
    asked.clear();
    newest = 0;
    targets.restore(message.curves);
    at("messages").replaceChildren();
    for (const event of message.events) tellEvent(event, message.t);
  },
  status: updateStatus,
  event: (message) => {
    forget(message.stamp);
    tellEvent(message, message.t);
  },
  reply: (message) => {
    const { what, stamp } = asked.get(message.number) ?? { what: "message" };
    asked.delete(message.number);
    if (!message.ok) {
      forget(stamp);
      tell(`${what} refused: ${message.text}`, true);
    } else if (what === "cancel all") tell(`cancel all: ${message.text}`);
  },
  frame: showFrame,
  roundTrip: (ms) => (at("round-trip").textContent = `${Math.round(ms)} ms`),
});
const picker = new Picker(at("picture"), view, (stamp, box) => {
  const rounded = box.map((value) => Math.round(value * 100) / 100);
  if (!command("follow", { stamp, box: rounded, id: at("box-for").value }, "box")) return false;
  pending.set(stamp, setTimeout(() => tell("the tracker has not answered the box", true), 5000));
  return true;
});

at("cancel-all").addEventListener("click", () => command("cancel_all", {}, "cancel all"));
at("live").addEventListener("click", () => view.resume());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !picker.busy) view.resume();
});
setInterval(updateBadge, 100);

function command(type, fields, what) {
  const number = link.send(type, fields);
  if (number === null) tell(`${what}: no connection`, true);
  else asked.set(number, { what, stamp: fields.stamp });
  return number !== null;
}

/** Wait no longer for what becomes of a box. */
function forget(stamp) {
  clearTimeout(pending.get(stamp));
  pending.delete(stamp);
}

async function showFrame(header, jpeg) {
  try {
    const bitmap = await createImageBitmap(jpeg);
    // Decoding may end in another order than it began.
    if (header.sequence < newest) bitmap.close();
    else {
      newest = header.sequence;
      view.show(header, bitmap);
    }
  } finally {
    link.shown(header.sequence);
  }
}

function updateStatus(message) {
  targets.update(message.targets, message.t);
  at("no-targets").hidden = message.targets.length > 0;
  at("cancel-all").disabled = message.targets.length === 0;
  updateChoice();
  at("rate-images").textContent = `${message.rates.images.toFixed(1)} Hz`;
  at("rate-tracks").textContent = `${message.rates.tracks.toFixed(1)} Hz`;
  at("rate-shown").textContent = `${message.rates.shown.toFixed(1)} Hz`;
  const { p50, p99 } = message.latency_ms;
  at("latency").textContent = message.tracker_answers ? `${p50.toFixed(0)} / ${p99.toFixed(0)} ms` : "–";
  at("latency").title = "median / 99th percentile";
  let hint = "";
  if (!message.images_come && performance.now() > FIRST_STATUS_HINT_MS) hint = "no images from the camera";
  else if (message.images_come && !message.tracker_answers) hint = "the tracker does not answer";
  else if (view.header?.stamp === "0") hint = "the camera does not stamp its images: boxes go to the newest one";
  else if (!view.header) hint = "waiting for images…";
  at("hint").textContent = hint;
}

function updateChoice() {
  const choice = at("box-for");
  const wanted = ["", ...targets.ids];
  const there = [...choice.options].map((option) => option.value);
  if (wanted.join("\n") === there.join("\n")) return;
  const chosen = choice.value;
  choice.replaceChildren(...wanted.map((id) => new Option(id ? `for ${id}, in its place` : "a new target", id)));
  choice.value = wanted.includes(chosen) ? chosen : "";
}

function updateBadge() {
  at("live").disabled = !view.frozen;
  at("badge").hidden = !view.frozen;
  if (view.frozen) at("badge").textContent = `frozen ${((performance.now() - view.frozenSince) / 1000).toFixed(1)} s`;
}

function tellEvent(event, now) {
  const reason = event.reason && event.reason !== "NONE" ? `: ${event.reason}` : "";
  const what = `${event.id || "box"} ${event.kind}${reason}`;
  tell(what, BAD_EVENTS.has(event.kind), now - event.t, event.text);
}

function tell(text, bad = false, secondsAgo = 0, detail = "") {
  const item = document.createElement("li");
  if (bad) item.className = "bad";
  const time = item.appendChild(document.createElement("time"));
  time.textContent = new Date(Date.now() - secondsAgo * 1000).toLocaleTimeString([], { hour12: false });
  item.append(text);
  if (detail) {
    const more = item.appendChild(document.createElement("p"));
    more.className = "muted";
    more.textContent = more.title = detail;
  }
  at("messages").prepend(item);
  while (at("messages").childElementCount > MOST_MESSAGES) at("messages").lastElementChild.remove();
}
