/** The microphone as 16-bit PCM. */

import { Problem } from "./api.js";

const FASTEST = 48_000; // Hz that a stream takes

const REFUSED = {
  NotAllowedError: "The microphone is not allowed here. Allow it for this page in the browser's address bar, then press Record again.",
  NotFoundError: "No microphone was found. Plug one in, or choose a file instead.",
  NotReadableError: "The microphone is in use by another program, or switched off. Free it, then press Record again.",
};

/** Open the microphone; `onChunk(samples, peak)` gets a tenth of a second at a time. Raises `Problem`. */
export async function openMicrophone(onChunk) {
  if (!navigator.mediaDevices?.getUserMedia || !window.AudioWorkletNode) {
    const where = window.isSecureContext ? "This browser cannot record." : "Browsers record only on https:// pages and on localhost.";
    throw new Problem("no_microphone", `${where} Choose a file instead.`);
  }
  // what a call would filter away is part of how a voice sounds
  const plain = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
  } catch (error) {
    throw new Problem("no_microphone", REFUSED[error.name] ?? `The microphone cannot be used (${error.name}). Choose a file instead.`);
  }
  return new Microphone(stream, onChunk).open();
}

class Microphone {
  constructor(stream, onChunk) {
    this.stream = stream;
    this.onChunk = onChunk;
    this.context = new AudioContext();
    this.every = Math.ceil(this.context.sampleRate / FASTEST);
    this.samplingRate = this.context.sampleRate / this.every;
  }

  async open() {
    await this.context.audioWorklet.addModule(new URL("pcm-worklet.js", import.meta.url));
    this.sender = new AudioWorkletNode(this.context, "pcm-sender", { processorOptions: { every: this.every } });
    this.sender.port.onmessage = ({ data }) => (data.last ? this.flushed?.() : this.onChunk(data.samples, data.peak));
    this.context.createMediaStreamSource(this.stream).connect(this.sender);
    this.sender.connect(this.context.destination); // it gives silence; some browsers run only what leads somewhere
    await this.context.resume();
    return this;
  }

  /** Tell when the microphone is taken away. */
  onLost(told) {
    for (const track of this.stream.getTracks()) track.addEventListener("ended", told);
  }

  /** Close it, once what it has heard has been told. */
  async close() {
    const flushed = new Promise((resolve) => (this.flushed = resolve));
    this.sender.port.postMessage("flush");
    await Promise.race([flushed, new Promise((resolve) => setTimeout(resolve, 500))]);
    for (const track of this.stream.getTracks()) track.stop();
    await this.context.close();
  }
}
