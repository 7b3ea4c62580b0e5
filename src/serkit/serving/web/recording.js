/** A recording while it is made: microphone, stream and what is shown, and in the end a timeline like a file's. */

import { Problem } from "./api.js";
import { pcmPeaks, wavFile } from "./downloads.js";
import { openMicrophone } from "./microphone.js";
import { Stream } from "./stream.js";

const PEAKS = 4000;
const BEHIND = 20; // seconds of sound that may wait to be sent

export class Recording {
  /** `view` is a LiveView; `onLost(problem)` is told when it cannot go on. */
  constructor(view, { onReady, onLost }) {
    Object.assign(this, { view, onReady, onLost, chunks: [], samples: 0, segments: [], curve: [], ready: null });
  }

  /** Open the microphone, then the stream. Raises `Problem`. */
  async start(options) {
    this.microphone = await openMicrophone((samples, peak) => this.#heard(samples, peak));
    this.stream = new Stream({ ...options, sampling_rate: this.microphone.samplingRate }, (event) => this.#told(event));
    this.microphone.onLost(() => this.onLost(new Problem("no_microphone", "The microphone was taken away.")));
    this.stream.done.catch((problem) => this.stopping || this.onLost(problem));
  }

  get seconds() {
    return this.samples / this.microphone.samplingRate;
  }

  #heard(samples, peak) {
    this.chunks.push(samples);
    this.samples += samples.length;
    this.stream?.send(samples);
    if (this.ready) this.view.meter(peak, this.seconds);
    const waiting = (this.stream?.socket.bufferedAmount ?? 0) / 2 / this.microphone.samplingRate;
    if (waiting > BEHIND && !this.stopping) this.onLost(new Problem("busy", "The server cannot keep up with the recording."));
  }

  #told(event) {
    if (event.type === "ready") {
      this.ready = event;
      this.onReady(event);
      return;
    }
    const times = { start: event.start_ms / 1000, end: event.end_ms / 1000 };
    if (event.type === "update") this.#draw(times, event.probabilities);
    if (event.type === "segment") {
      const { utterance, label, confidence, probabilities } = event;
      this.segments.push({ utterance, ...times, label, confidence, probabilities });
    }
    this.view.take(event, this.curve);
  }

  /** Windows overlap: a piece of the curve is what a window adds to those before. */
  #draw({ start, end }, probabilities) {
    const known = this.curve.at(-1)?.end ?? 0;
    if (end > known) this.curve.push({ start: Math.max(start, known), end, probabilities });
  }

  /** Stop, wait for the last segments, and return `{timeline, file, problem}`; problem: why the end is missing. */
  async stop() {
    this.stopping = true;
    await this.microphone.close();
    let problem = null;
    try {
      await this.stream.finish();
    } catch (error) {
      problem = error;
    }
    return { ...this.#whole(), problem };
  }

  /** Stop without waiting for the server, which is lost. */
  async abandon() {
    this.stopping = true;
    await this.microphone?.close();
    this.stream?.close();
    return this.samples && this.ready ? this.#whole() : null;
  }

  #whole() {
    const stamp = new Date().toLocaleString("sv-SE").replaceAll(":", "."); // 2026-11-22 07.12.35
    const file = wavFile(this.chunks, this.microphone.samplingRate, `recording ${stamp}.wav`);
    const { model, classes, thresholds } = this.ready ?? { classes: [] };
    const { seconds, segments, curve } = this;
    const timeline = { id: file.name, seconds, model, classes, segments, curve, thresholds, peaks: pcmPeaks(this.chunks, PEAKS) };
    return { timeline, file };
  }
}
