/* Runs on the audio thread: joins the blocks of the microphone to a tenth of a second of mono 16-bit PCM. */

class PcmSender extends AudioWorkletProcessor {
  /* `processorOptions.every`: so many samples become their mean, for sound cards faster than the server takes. */
  constructor({ processorOptions: { every } }) {
    super();
    this.every = every;
    this.chunk = new Int16Array(Math.round(sampleRate / every / 10));
    this.filled = this.peak = this.sum = this.summed = 0;
    this.port.onmessage = () => {
      this.send();
      this.port.postMessage({ last: true });
    };
  }

  send() {
    if (!this.filled) return;
    const samples = this.chunk.slice(0, this.filled);
    this.port.postMessage({ samples, peak: this.peak }, [samples.buffer]);
    this.filled = this.peak = 0;
  }

  process([channels]) {
    const length = channels[0]?.length ?? 0;
    for (let at = 0; at < length; at++) {
      for (const channel of channels) this.sum += channel[at] / channels.length;
      if (++this.summed < this.every) continue;
      const value = Math.max(-1, Math.min(1, this.sum / this.every));
      this.sum = this.summed = 0;
      this.peak = Math.max(this.peak, Math.abs(value));
      this.chunk[this.filled++] = Math.round(value * 32767);
      if (this.filled === this.chunk.length) this.send();
    }
    return true;
  }
}

registerProcessor("pcm-sender", PcmSender);
