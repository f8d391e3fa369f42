// The WebSocket to the robot: takes apart what comes, and connects anew by itself.

const SILENCE_MS = 5000; // the server speaks ten times a second
const FIRST_WAIT_MS = 400;
const LONGEST_WAIT_MS = 4000;
const PING_MS = 2000;

/** Events: state(kind, text), hello(m), status(m), event(m), reply(m), frame(header, jpegBlob), roundTrip(ms). */
export class Link {
  #socket = null;
  #handlers;
  #wait = FIRST_WAIT_MS;
  #heard = 0;
  #number = 0;
  #pings = new Map();

  constructor(handlers) {
    this.#handlers = handlers;
    this.#connect();
    setInterval(() => this.#check(), 1000);
    setInterval(() => this.#ping(), PING_MS);
  }

  /** Send a command; its number, which the reply will have, or null when there is no connection. */
  send(type, fields = {}) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return null;
    this.#number += 1;
    this.#socket.send(JSON.stringify({ type, number: this.#number, ...fields }));
    return this.#number;
  }

  /** Tell that a frame was shown, so that the next one comes. */
  shown(sequence) {
    if (this.#socket?.readyState === WebSocket.OPEN) {
      this.#socket.send(JSON.stringify({ type: "shown", sequence }));
    }
  }

  #connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/socket`);
    this.#socket = socket;
    this.#heard = performance.now();
    socket.binaryType = "arraybuffer";
    socket.onmessage = (message) => {
      if (socket !== this.#socket) return;
      this.#heard = performance.now();
      this.#wait = FIRST_WAIT_MS;
      if (typeof message.data === "string") this.#text(JSON.parse(message.data));
      else this.#frame(message.data);
    };
    socket.onclose = () => {
      if (socket === this.#socket) this.#again();
    };
  }

  async #again() {
    this.#socket = null;
    this.#pings.clear();
    const wait = this.#wait * (0.75 + 0.5 * Math.random());
    this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT_MS);
    this.#handlers.state("lost", "no connection, trying again…");
    // A WebSocket does not tell why it was refused.
    try {
      const answer = await fetch("/ready", { cache: "no-store" });
      if (answer.status === 401) return location.reload();
      if (!answer.ok) this.#handlers.state("lost", (await answer.text()).trim());
    } catch {
      // Not there; that was said above.
    }
    setTimeout(() => this.#connect(), wait);
  }

  #text(message) {
    if (message.type === "hello") {
      this.#handlers.state("good", "connected");
      this.#ping();
      this.#handlers.hello(message);
    } else if (message.type === "state") this.#handlers.status(message);
    else if (message.type === "event") this.#handlers.event(message);
    else if (message.type === "reply") {
      const sent = this.#pings.get(message.number);
      this.#pings.delete(message.number);
      if (sent !== undefined) this.#handlers.roundTrip(performance.now() - sent);
      else this.#handlers.reply(message);
    }
  }

  #frame(data) {
    const length = new DataView(data).getUint32(0);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    this.#handlers.frame(header, new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
  }

  #ping() {
    const sent = performance.now();
    const number = this.send("ping");
    if (number !== null) this.#pings.set(number, sent);
  }

  #check() {
    // A link that went away without a word, as wireless ones do.
    if (this.#socket && performance.now() - this.#heard > SILENCE_MS) {
      const socket = this.#socket;
      this.#again();
      socket.close();
    }
  }
}
