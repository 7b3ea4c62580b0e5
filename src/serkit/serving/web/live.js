/** What is expressed right now, while recording. */

import { createCurves, curveData } from "./curves.js";
import { byId, el, swatch } from "./dom.js";
import { capital, clock, percent } from "./format.js";

const SEEN = 30; // seconds of curve in view
const PAUSE = 4000; // ms between two things told to a screen reader

export class LiveView {
  constructor() {
    for (const name of ["label", "told", "bars"]) this[name] = byId(`now-${name}`);
    this.level = byId("level");
    this.time = byId("live-time");
    this.list = byId("live-segments");
    this.host = byId("live-curves");
    new ResizeObserver(() => this.plot && this.host.clientWidth && this.plot.setSize({ width: this.host.clientWidth, height: this.plot.height })).observe(this.host);
    document.addEventListener("themechange", () => this.plot?.redraw());
  }

  /** Begin with these classes and colours. */
  begin(classes, colours) {
    Object.assign(this, { classes, colours, data: curveData([], classes), seconds: 0, said: "", saidAt: -PAUSE });
    this.list.replaceChildren();
    this.rows = new Map(classes.map((name) => [name, this.#bar(name)]));
    this.bars.replaceChildren(...[...this.rows.values()].map((each) => each.item));
    this.plot?.destroy();
    this.plot = createCurves(this.host, { classes, colours, height: 150, range: () => this.#window(), options: { cursor: { show: false } } });
    this.#quiet("Listening…");
    this.meter(0, 0);
    this.told.textContent = "";
  }

  #window() {
    const end = Math.max(SEEN, this.seconds);
    return [end - SEEN, end];
  }

  #bar(name) {
    const fill = el("span");
    fill.style.background = this.colours.get(name);
    const value = el("span", { class: "number" }, "0 %");
    const track = el("span", { class: "track", role: "meter", "aria-label": name, "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": "0" }, fill);
    return { item: el("li", {}, el("span", {}, name), track, value), fill, track, value };
  }

  /** Show how loud it is and how long it has been. */
  meter(peak, seconds) {
    const decibels = 20 * Math.log10(Math.max(peak, 1e-3)); // -60 to 0
    const share = Math.max(0, 1 + decibels / 60);
    this.level.firstElementChild.style.transform = `scaleX(${share.toFixed(3)})`;
    this.level.setAttribute("aria-valuenow", String(Math.round(100 * share)));
    if (Math.floor(seconds) !== Math.floor(this.seconds) || !seconds) this.time.textContent = clock(seconds, false);
    this.seconds = seconds;
    this.plot?.setData(this.data);
  }

  /** Show an event of the server; `curve` is what was told until now. */
  take(event, curve) {
    if (event.type === "start") this.#quiet("Speech…");
    if (event.type === "end") this.#quiet("Listening…");
    if (event.type === "update") this.#update(event, curve);
    if (event.type === "segment") this.#segment(event);
  }

  #quiet(text) {
    this.label.textContent = text;
    this.label.dataset.quiet = "";
    this.label.style.removeProperty("--now");
  }

  #update(event, curve) {
    this.data = curveData(curve.filter((each) => each.end >= this.seconds - SEEN - 5), this.classes);
    delete this.label.dataset.quiet;
    this.label.textContent = capital(event.label);
    this.label.style.setProperty("--now", this.colours.get(event.label));
    for (const [name, { fill, track, value }] of this.rows) {
      const share = event.probabilities[name] ?? 0;
      fill.style.transform = `scaleX(${share})`;
      track.setAttribute("aria-valuenow", String(Math.round(100 * share)));
      value.textContent = percent(share);
    }
    this.#say(event.label);
  }

  /** Tell a screen reader what changed, and not more often than it can be heard. */
  #say(label) {
    const now = performance.now();
    if (label === this.said || now - this.saidAt < PAUSE) return;
    this.said = label;
    this.saidAt = now;
    this.told.textContent = capital(label);
  }

  #segment(event) {
    const times = `${clock(event.start_ms / 1000)} – ${clock(event.end_ms / 1000)}`;
    const label = el("span", { class: "label" }, swatch(this.colours.get(event.label)), event.label);
    this.list.prepend(el("li", {}, el("span", { class: "number" }, times), label, el("span", { class: "faint" }, percent(event.confidence))));
  }
}
