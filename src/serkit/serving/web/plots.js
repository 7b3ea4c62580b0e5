/** Waveform and curves over one time axis: zoom, playhead, the time under the pointer. */

import { createCurves, curveData } from "./curves.js";
import { percent, clock } from "./format.js";
import { createWave, lanes } from "./wave.js";

const CURVES = 190; // CSS pixels
const CLOSEST = 0.5; // seconds that are seen at least

export class Plots {
  /** `onSeek(seconds)` is told where the plots were clicked; `onPoint(text)` what stands under the pointer. */
  constructor(waveHost, curveHost, { onSeek, onPoint }) {
    Object.assign(this, { waveHost, curveHost, onSeek, onPoint, plots: [] });
    this.window = [0, 1];
    this.now = 0;
    new ResizeObserver(() => this.#resize()).observe(waveHost);
    document.addEventListener("themechange", () => this.#redraw());
  }

  /** Draw a recording: `{seconds, peaks, segments, curve, classes, colours, shown}`. */
  draw(view) {
    for (const plot of this.plots) plot.destroy();
    this.view = view;
    this.window = [0, view.seconds];
    const range = () => this.window;
    const options = { cursor: this.#cursor() };
    this.wave = createWave(this.waveHost, { count: lanes(view.segments).length, range, view: () => this.view, options });
    this.curves = createCurves(this.curveHost, { classes: view.classes, colours: view.colours, height: CURVES, range, options });
    this.plots = [this.wave, this.curves];
    this.heads = this.plots.map((plot) => this.#decorate(plot));
    this.curves.setData(curveData(view.curve, view.classes));
    this.show(view.shown);
    this.time(0);
  }

  #cursor() {
    return {
      y: false,
      points: { show: false },
      drag: { x: true, y: false, dist: 6, setScale: false },
      sync: { key: "serkit" },
      bind: { dblclick: () => () => this.whole() },
    };
  }

  #decorate(plot) {
    const head = document.createElement("div");
    head.className = "playhead";
    plot.over.append(head);
    plot.over.addEventListener("click", (event) => {
      const left = event.clientX - plot.over.getBoundingClientRect().left;
      this.onSeek(Math.min(this.view.seconds, Math.max(0, plot.posToVal(left, "x"))));
    });
    plot.over.addEventListener("mousemove", () => this.#tellPoint(plot));
    plot.over.addEventListener("mouseleave", () => this.onPoint(null));
    (plot.hooks.setSelect ??= []).push(() => this.#zoomTo(plot));
    return head;
  }

  #zoomTo(plot) {
    const { left, width } = plot.select;
    if (width < 6) return;
    const [from, to] = [left, left + width].map((each) => plot.posToVal(each, "x"));
    for (const each of this.plots) each.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this.look(from, to);
  }

  #tellPoint(plot) {
    const { left } = plot.cursor;
    if (left == null || left < 0) return this.onPoint(null);
    this.onPoint(this.tellAt(plot.posToVal(left, "x")));
  }

  /** Return what the curves say at a time, in words. */
  tellAt(seconds) {
    const point = this.view.curve.find((each) => each.start <= seconds && seconds < each.end);
    if (!point) return `${clock(seconds)} · nothing judged here`;
    const shares = Object.entries(point.probabilities).filter(([name]) => this.view.shown.has(name));
    shares.sort((one, other) => other[1] - one[1]);
    return [clock(seconds), ...shares.slice(0, 3).map(([name, share]) => `${name} ${percent(share)}`)].join(" · ");
  }

  /** Show the classes in `shown` only. */
  show(shown) {
    this.view.shown = shown;
    this.view.classes.forEach((name, at) => this.curves.setSeries(at + 1, { show: shown.has(name) }));
    this.wave.redraw();
  }

  /** Put the playhead at a time, and keep it in view while it moves on. */
  time(seconds) {
    const [from, to] = this.window;
    const left = seconds < from || seconds > to;
    if (left && seconds !== this.now) this.look(seconds, seconds + to - from);
    this.now = seconds;
    this.plots.forEach((plot, at) => {
      const where = plot.valToPos(seconds, "x");
      this.heads[at].hidden = !(where >= -1 && where <= plot.over.clientWidth + 1);
      this.heads[at].style.transform = `translateX(${where}px)`;
    });
  }

  /** Look at a stretch of time. */
  look(from, to) {
    const { seconds } = this.view;
    const width = Math.min(seconds, Math.max(CLOSEST, to - from));
    const start = Math.min(Math.max(0, from), seconds - width);
    this.window = [start, start + width];
    for (const plot of this.plots) plot.setScale("x", { min: start, max: start + width });
    this.time(this.now);
  }

  /** Look at a stretch that is so many times as long, around the playhead where it is in view. */
  zoom(factor) {
    const [from, to] = this.window;
    const centre = this.now >= from && this.now <= to ? this.now : (from + to) / 2;
    this.look(centre - (centre - from) * factor, centre + (to - centre) * factor);
  }

  /** Look at the whole recording. */
  whole() {
    this.look(0, this.view.seconds);
  }

  #resize() {
    if (!this.plots.length || !this.waveHost.clientWidth) return;
    for (const plot of this.plots) plot.setSize({ width: this.waveHost.clientWidth, height: plot.height });
    this.time(this.now);
  }

  #redraw() {
    for (const plot of this.plots) plot.redraw();
  }
}
