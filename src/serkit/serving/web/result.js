/** A recording that has been judged: player, plots, filter, table and downloads. */

import { byId, show } from "./dom.js";
import { save, timelineCsv, timelineJson } from "./downloads.js";
import { drawFilter, drawSummary, shares } from "./filter.js";
import { clock, duration } from "./format.js";
import { classColours } from "./palette.js";
import { Player } from "./player.js";
import { Plots } from "./plots.js";
import { SegmentTable } from "./table.js";

const PLAY = "M5 3.5v13l11-6.5z";
const PAUSE = "M5 3.5h3.6v13H5zM11.4 3.5H15v13h-3.6z";

export class ResultView {
  constructor() {
    this.seek = byId("seek");
    this.play = byId("play");
    this.player = new Player(byId("audio"), {
      onTime: (seconds) => this.#time(seconds),
      onState: (playing) => this.#state(playing),
      onFail: () => this.#mute(),
    });
    this.plots = new Plots(byId("wave"), byId("curves"), {
      onSeek: (seconds) => this.player.seek(seconds),
      onPoint: (text) => this.#point(text),
    });
    this.table = new SegmentTable(byId("table"), { onPlay: (segment) => this.player.playFrom(segment.start) });
    this.#listen();
    this.#state(false);
  }

  #listen() {
    this.play.addEventListener("click", () => this.player.toggle());
    this.seek.addEventListener("keydown", (event) => this.#key(event));
    byId("rate").addEventListener("change", (event) => (this.player.rate = Number(event.target.value)));
    byId("zoom-in").addEventListener("click", () => this.plots.zoom(0.5));
    byId("zoom-out").addEventListener("click", () => this.plots.zoom(2));
    byId("zoom-all").addEventListener("click", () => this.plots.whole());
    const stem = () => this.file.name.replace(/\.[^.]+$/, "") || "recording";
    byId("save-json").addEventListener("click", () => save(timelineJson(this.timeline), `${stem()}.json`, "application/json"));
    byId("save-csv").addEventListener("click", () => save(timelineCsv(this.timeline), `${stem()}.csv`, "text/csv"));
    byId("save-wav").addEventListener("click", () => save(this.file, this.file.name));
  }

  /** Show a timeline (the server's answer, with peaks) of a file; `recorded` here, so it can be saved. */
  show(timeline, file, recorded = false) {
    Object.assign(this, { timeline, file });
    const { segments, classes, seconds } = timeline;
    const colours = classColours(classes);
    const ranked = shares(segments, classes);
    show(true, byId("result"));
    show(recorded, byId("save-wav"));
    byId("result-title").textContent = file.name;
    const count = `${segments.length} segment${segments.length === 1 ? "" : "s"}`;
    byId("result-note").textContent = [duration(seconds), count, timeline.model].join(" · ");
    byId("length").textContent = clock(seconds);
    this.play.disabled = false;
    this.player.load(file);
    this.player.rate = Number(byId("rate").value);
    this.view = { ...timeline, curve: timeline.curve ?? [], peaks: timeline.peaks ?? [], colours, shown: new Set(classes) };
    drawSummary(ranked, colours);
    drawFilter(ranked, colours, (shown) => this.#filter(shown));
    this.seek.setAttribute("aria-valuemax", seconds.toFixed(1));
    this.table.draw(this.view);
    this.plots.draw(this.view);
    this.#time(0);
  }

  /** Put it out of sight; `reveal` brings it back. */
  hide() {
    this.player.pause();
    show(false, byId("result"));
  }

  /** Bring back what was shown last, where there is any. */
  reveal() {
    show(Boolean(this.view), byId("result"));
  }

  #filter(shown) {
    this.view.shown = shown;
    this.plots.show(shown);
    this.table.show(shown);
  }

  #time(seconds) {
    if (!this.view) return;
    this.now = seconds;
    byId("time").textContent = clock(seconds);
    this.plots.time(seconds);
    this.table.mark(seconds);
    if (!this.pointed) byId("readout").textContent = this.plots.tellAt(seconds);
    if (!this.player.playing) this.#tellSeek(); // sixty times a second is no use to anybody
  }

  #tellSeek() {
    this.seek.setAttribute("aria-valuenow", this.now.toFixed(1));
    this.seek.setAttribute("aria-valuetext", this.plots.tellAt(this.now));
  }

  #point(text) {
    this.pointed = text !== null;
    byId("readout").textContent = text ?? this.plots.tellAt(this.now);
  }

  #state(playing) {
    if (this.view && !playing) this.#tellSeek();
    this.play.setAttribute("aria-label", playing ? "Pause" : "Play");
    const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    for (const [name, value] of [["viewBox", "0 0 20 20"], ["width", "22"], ["height", "22"], ["aria-hidden", "true"]]) icon.setAttribute(name, value);
    path.setAttribute("d", playing ? PAUSE : PLAY);
    path.setAttribute("fill", "currentColor");
    icon.append(path);
    this.play.replaceChildren(icon);
  }

  #mute() {
    this.play.disabled = true;
    byId("result-note").textContent += " · This browser cannot play the format; what was found stands.";
  }

  #key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const { seconds } = this.timeline;
    const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: seconds / 10, PageDown: -seconds / 10, Home: -Infinity, End: Infinity };
    const acts = { " ": () => this.player.toggle(), "+": () => this.plots.zoom(0.5), "-": () => this.plots.zoom(2), 0: () => this.plots.whole() };
    if (event.key in moves) this.player.seek(Math.min(seconds, Math.max(0, this.now + moves[event.key])));
    else if (event.key in acts) acts[event.key]();
    else return;
    event.preventDefault();
  }
}
