/** Playing a recording that stays in the browser. */

/** Wraps a media element: `onTime(seconds)` while it plays or is moved, `onState(playing)`, `onFail()`. */
export class Player {
  constructor(audio, { onTime, onState, onFail }) {
    this.audio = audio;
    this.onTime = onTime;
    this.address = null;
    for (const name of ["play", "pause", "ended"]) audio.addEventListener(name, () => onState(!audio.paused));
    audio.addEventListener("play", () => this.#follow());
    audio.addEventListener("seeked", () => onTime(audio.currentTime));
    audio.addEventListener("error", () => this.address && onFail());
  }

  /** Take a recording (a File or Blob) in place of the last. */
  load(file) {
    this.clear();
    this.address = URL.createObjectURL(file);
    this.audio.src = this.address;
  }

  /** Stop where it is. */
  pause() {
    this.audio.pause();
  }

  /** Forget the recording. */
  clear() {
    this.audio.pause();
    if (this.address) URL.revokeObjectURL(this.address);
    this.address = null;
    this.audio.removeAttribute("src");
  }

  /** Go to a time in seconds. */
  seek(seconds) {
    this.audio.currentTime = seconds;
    this.onTime(seconds);
  }

  /** Play from a time on. */
  async playFrom(seconds) {
    this.seek(seconds);
    if (this.audio.paused) await this.toggle();
  }

  /** Play or pause. */
  async toggle() {
    if (!this.audio.paused) return this.audio.pause();
    try {
      await this.audio.play();
    } catch {
      // a format the browser cannot play tells itself by the error event
    }
  }

  get playing() {
    return !this.audio.paused;
  }

  set rate(value) {
    this.audio.playbackRate = value;
  }

  #follow() {
    if (this.audio.paused) return;
    this.onTime(this.audio.currentTime);
    requestAnimationFrame(() => this.#follow());
  }
}

/** Return the seconds of a recording that the browser can read, null where it cannot, within `patience` ms. */
export function probeSeconds(file, patience = 2000) {
  const audio = new Audio();
  const address = URL.createObjectURL(file);
  return new Promise((resolve) => {
    const told = (seconds) => resolve(Number.isFinite(seconds) ? seconds : null);
    audio.addEventListener("loadedmetadata", () => told(audio.duration));
    audio.addEventListener("error", () => told(null));
    setTimeout(told, patience, null);
    audio.preload = "metadata";
    audio.src = address;
  }).finally(() => {
    audio.removeAttribute("src");
    URL.revokeObjectURL(address);
  });
}
