/** A live stream: the microphone's samples up, events down. */

import { Problem, streamAddress, streamProtocols } from "./api.js";

const PATIENCE = 60_000; // ms for the last events after Stop

export class Stream {
  /** `onEvent(event)` gets what the server tells. `done` resolves at the end, or rejects with a `Problem`. */
  constructor(options, onEvent) {
    this.waiting = []; // what was heard before the server was ready
    this.ready = false;
    this.socket = new WebSocket(streamAddress(options), streamProtocols());
    this.socket.binaryType = "arraybuffer";
    this.done = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    this.done.catch(() => {}); // it is told to whoever waits for it, maybe later
    this.socket.onmessage = ({ data }) => this.#told(JSON.parse(data), onEvent);
    this.socket.onclose = ({ code, reason }) => this.reject(this.#lost(code, reason));
  }

  #told(event, onEvent) {
    if (event.type === "error") this.reject(new Problem(event.error.code, event.error.message));
    else if (event.type === "done") this.resolve(event);
    else if (event.type === "ready") this.#begin(event, onEvent);
    else onEvent(event);
  }

  #begin(event, onEvent) {
    this.ready = true;
    for (const each of this.waiting.splice(0)) this.socket.send(each);
    onEvent(event);
  }

  #lost(code, reason) {
    const why = { 1013: "The server is busy. Try again in a moment.", 1001: "The server is shutting down." };
    if (!this.ready) return new Problem("gone", why[code] ?? "The server does not answer. Is it still running? Start it with: serkit serve");
    return new Problem("gone", why[code] ?? `The connection to the server was lost${reason ? ` (${reason})` : ""}.`);
  }

  /** Send samples (Int16Array, as the machine orders bytes: little-endian everywhere that browsers run). */
  send(samples) {
    this.#put(samples);
  }

  /** Tell the server that nothing more comes, and wait for the rest. */
  async finish() {
    this.#put(JSON.stringify({ type: "finish" }));
    const late = setTimeout(() => this.reject(new Problem("gone", "The server did not finish in time.")), PATIENCE);
    try {
      return await this.done;
    } finally {
      clearTimeout(late);
      this.close();
    }
  }

  /** Hang up. */
  close() {
    this.socket.close();
  }

  #put(message) {
    if (!this.ready) this.waiting.push(message);
    else if (this.socket.readyState === WebSocket.OPEN) this.socket.send(message);
  }
}
