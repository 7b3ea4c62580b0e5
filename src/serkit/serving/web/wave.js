/** The waveform with its segments: bars in the colour of what is expressed there, and lanes with the names below. */

import { GUTTER } from "./curves.js";
import { inkOn, isFaint, themeColour } from "./palette.js";

const LANE = 24; // CSS pixels, with the gap above
const WAVE = 104;

/** Return the speakers of segments in order of appearance; `[null]` where none is told. */
export function lanes(segments) {
  const found = [...new Set(segments.map((each) => each.speaker ?? null))];
  return found.length ? found : [null];
}

/** Return a uPlot that draws `view()`: `{seconds, peaks, segments, colours, shown}`, in `host`. */
export function createWave(host, { count, range, view, options = {} }) {
  const plot = new uPlot(
    {
      width: Math.max(200, host.clientWidth),
      height: WAVE + count * LANE,
      padding: [4, 18, 4, 0],
      legend: { show: false },
      scales: { x: { time: false, range }, y: { range: [-1, 1] } },
      axes: [{ show: false }, { size: GUTTER, values: (plot, splits) => splits.map(() => ""), grid: { show: false }, ticks: { show: false } }],
      series: [{}, { paths: () => null, points: { show: false } }],
      hooks: { draw: [(drawn) => drawAll(drawn, view())] },
      ...options,
    },
    [[0, 1], [0, 0]],
    host,
  );
  return plot;
}

function drawAll(plot, view) {
  const { ctx, bbox } = plot;
  const count = lanes(view.segments).length;
  const wave = bbox.height - count * LANE * uPlot.pxRatio;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  drawBars(plot, view, wave);
  drawLanes(plot, view, bbox.top + wave);
  ctx.restore();
  nameLanes(plot, view, bbox.top + wave);
}

/** Write the speakers left of their lanes, as far as there is room. */
function nameLanes(plot, view, top) {
  const { ctx, bbox } = plot;
  const ratio = uPlot.pxRatio;
  ctx.save();
  ctx.font = `${12 * ratio}px Inter, system-ui, sans-serif`;
  ctx.fillStyle = themeColour("muted");
  ctx.textAlign = "right";
  ctx.textBaseline = "middle";
  lanes(view.segments).forEach((speaker, at) => {
    let name = speaker ?? "";
    while (name.length > 1 && ctx.measureText(name).width > bbox.left - 8 * ratio) name = `${name.replace("…", "").slice(0, -1)}…`;
    ctx.fillText(name, bbox.left - 6 * ratio, top + (at * LANE + 4 + (LANE - 4) / 2) * ratio);
  });
  ctx.restore();
}

function drawBars(plot, view, height) {
  const { ctx, bbox } = plot;
  const { min, max } = plot.scales.x;
  const step = 3 * uPlot.pxRatio;
  const quiet = themeColour("wave");
  const middle = bbox.top + height / 2;
  const each = view.seconds / Math.max(1, view.peaks.length);
  const shown = view.segments.filter((segment) => view.shown.has(segment.label)).sort((one, other) => one.start - other.start);
  let at = 0;
  for (let left = 0; left < bbox.width; left += step) {
    const start = min + ((max - min) * left) / bbox.width;
    const end = min + ((max - min) * (left + step)) / bbox.width;
    if (start >= view.seconds) break;
    const peak = loudest(view.peaks, Math.floor(start / each), Math.ceil(end / each));
    const centre = (start + end) / 2;
    while (at < shown.length && shown[at].end <= centre) at++;
    const inside = at < shown.length && shown[at].start <= centre;
    ctx.fillStyle = inside ? view.colours.get(shown[at].label) : quiet;
    const tall = Math.max(2 * uPlot.pxRatio, peak * (height - 6 * uPlot.pxRatio));
    ctx.fillRect(bbox.left + left, middle - tall / 2, step - uPlot.pxRatio, tall);
  }
}

function loudest(peaks, from, to) {
  let found = 0;
  for (let at = Math.max(0, from); at < Math.min(peaks.length, Math.max(to, from + 1)); at++) found = Math.max(found, peaks[at]);
  return found;
}

function drawLanes(plot, view, top) {
  const { ctx } = plot;
  const ratio = uPlot.pxRatio;
  const speakers = lanes(view.segments);
  ctx.font = `600 ${12 * ratio}px Inter, system-ui, sans-serif`;
  ctx.strokeStyle = themeColour("edge");
  ctx.lineWidth = ratio;
  ctx.textAlign = "left";
  ctx.textBaseline = "middle";
  for (const segment of view.segments) {
    if (!view.shown.has(segment.label)) continue;
    const left = plot.valToPos(segment.start, "x", true);
    const right = plot.valToPos(segment.end, "x", true);
    if (right < plot.bbox.left || left > plot.bbox.left + plot.bbox.width) continue;
    const lane = top + speakers.indexOf(segment.speaker ?? null) * LANE * ratio + 4 * ratio;
    const colour = view.colours.get(segment.label);
    ctx.fillStyle = colour;
    ctx.beginPath();
    ctx.roundRect(left + 0.5, lane, Math.max(2, right - left - 1), (LANE - 4) * ratio, 4 * ratio);
    ctx.fill();
    if (isFaint(colour)) ctx.stroke();
    writeInside(plot, segment.label, colour, left, right, lane + ((LANE - 4) / 2) * ratio);
  }
}

/** Write the class where it has room: the table has them all. */
function writeInside(plot, text, colour, left, right, middle) {
  const { ctx, bbox } = plot;
  const pad = 4 * uPlot.pxRatio;
  const from = Math.max(left, bbox.left);
  if (ctx.measureText(text).width > Math.min(right, bbox.left + bbox.width) - from - 2 * pad) return;
  ctx.fillStyle = inkOn(colour);
  ctx.fillText(text, from + pad, middle);
}
