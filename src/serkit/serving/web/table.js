/** The segments as a table. */

import { el, swatch } from "./dom.js";
import { clock, percent } from "./format.js";

function confidence(segment, colours) {
  const fill = el("span");
  fill.style.background = colours.get(segment.label);
  fill.style.transform = `scaleX(${segment.confidence})`;
  const track = el("span", { class: "track", "aria-hidden": "true" }, fill);
  return el("span", { class: "confidence" }, el("span", { class: "number" }, percent(segment.confidence)), track);
}

/** Fills `host`; `onPlay(segment)` is told which start was pressed. */
export class SegmentTable {
  constructor(host, { onPlay }) {
    this.host = host;
    this.onPlay = onPlay;
    this.rows = [];
  }

  /** Show segments; speakers have a column where there are any. */
  draw({ segments, colours, thresholds }) {
    const speakers = segments.some((each) => each.speaker != null);
    this.rows = segments.map((segment) => ({ segment, row: this.#row(segment, colours, thresholds, speakers) }));
    this.current = null;
    const head = ["Start", "End", "Emotion", "Confidence", ...(speakers ? ["Speaker"] : [])];
    const cells = head.map((name) => el("th", { scope: "col", class: `of-${name.toLowerCase()}` }, name));
    this.table = el("table", { "aria-label": "Segments" }, el("thead", {}, el("tr", {}, ...cells)), el("tbody", {}, ...this.rows.map((each) => each.row)));
    this.empty = el("p", { class: "empty" }, segments.length ? "No segment has one of the emotions chosen above." : "No speech was found in this recording.");
    this.host.replaceChildren(this.table, this.empty);
    this.show(new Set(segments.map((each) => each.label)));
  }

  /** Show the rows of the classes in `shown` only. */
  show(shown) {
    for (const { segment, row } of this.rows) row.hidden = !shown.has(segment.label);
    const some = this.rows.some(({ row }) => !row.hidden);
    this.table.hidden = !some;
    this.empty.hidden = some;
  }

  #row(segment, colours, thresholds, speakers) {
    const from = clock(segment.start);
    const button = el("button", { type: "button", "aria-label": `Play from ${from}`, onclick: () => this.onPlay(segment) }, from);
    const also = Object.entries(thresholds ?? {})
      .filter(([name, least]) => name !== segment.label && segment.probabilities[name] >= least)
      .map(([name]) => name);
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, button),
      el("td", { class: "number" }, clock(segment.end)),
      el("td", {}, el("span", { class: "label" }, swatch(colours.get(segment.label)), segment.label), also.length ? el("span", { class: "also" }, ` also ${also.join(", ")}`) : null),
      el("td", {}, confidence(segment, colours)),
      speakers ? el("td", {}, segment.speaker ?? "") : null,
    );
  }

  /** Mark the row that is being played at a time. */
  mark(seconds) {
    const found = this.rows.find(({ segment }) => segment.start <= seconds && seconds < segment.end)?.row ?? null;
    if (found === this.current) return;
    this.current?.removeAttribute("aria-current");
    found?.setAttribute("aria-current", "true");
    this.current = found;
    if (found && !found.hidden && !this.host.contains(document.activeElement)) this.#follow(found);
  }

  /** Bring a row into view within the table, without moving the page. */
  #follow(row) {
    const head = row.closest("table").tHead.offsetHeight;
    const [top, bottom] = [row.offsetTop, row.offsetTop + row.offsetHeight];
    if (top < this.host.scrollTop + head || bottom > this.host.scrollTop + this.host.clientHeight) this.host.scrollTop = top - head;
  }
}
