/** Probability curves over time, drawn by uPlot. */

import { clock } from "./format.js";
import { isFaint, themeColour } from "./palette.js";

const INCREMENTS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];
export const GUTTER = 44; // the width of the left axis in CSS pixels, the same in every plot so that times align

/** Return `[xs, ...ys]` for uPlot: points at the middle of their time, runs drawn to their ends, nulls between them. */
export function curveData(points, classes) {
  const data = [[], ...classes.map(() => [])];
  const push = (time, probabilities) => {
    data[0].push(time);
    classes.forEach((name, at) => data[at + 1].push(probabilities ? (probabilities[name] ?? 0) : null));
  };
  const sorted = [...points].sort((one, other) => one.start - other.start);
  let last = null;
  for (const point of sorted) {
    const follows = last && point.start <= last.end + 1e-3;
    if (last && !follows) {
      push(last.end, last.probabilities);
      push((last.end + point.start) / 2, null);
    }
    if (!follows) push(point.start, point.probabilities);
    push((point.start + point.end) / 2, point.probabilities);
    last = point;
  }
  if (last) push(last.end, last.probabilities);
  return data;
}

/** Return the time axis of a plot. */
export function timeAxis() {
  return {
    stroke: () => themeColour("muted"),
    font: "12px Inter, system-ui, sans-serif",
    size: 26,
    gap: 4,
    incrs: INCREMENTS,
    space: 64,
    grid: { stroke: () => themeColour("line"), width: 1 },
    ticks: { show: false },
    values: (plot, splits, axis, space, step) => splits.map((each) => (each < 0 ? "" : clock(each, step < 1))),
  };
}

function shareAxis() {
  return {
    stroke: () => themeColour("muted"),
    font: "12px Inter, system-ui, sans-serif",
    size: GUTTER,
    gap: 6,
    splits: () => [0, 0.5, 1],
    grid: { stroke: () => themeColour("line"), width: 1 },
    ticks: { show: false },
    values: (plot, splits) => splits.map((each) => `${100 * each} %`),
  };
}

/** Return a uPlot of the curves of `classes` in `host`; `options` are added to uPlot's. */
export function createCurves(host, { classes, colours, height, range, options = {} }) {
  const series = classes.map((name) => ({ label: name, stroke: colours.get(name), width: 2, paths, points: { show: false } }));
  return new uPlot(
    {
      width: Math.max(200, host.clientWidth),
      height,
      padding: [10, 18, 0, 0],
      legend: { show: false },
      scales: { x: { time: false, range }, y: { range: [-0.02, 1.04] } },
      axes: [timeAxis(), shareAxis()],
      series: [{}, ...series],
      hooks: { drawAxes: [edgeCurves], draw: [nameCurves] },
      ...options,
    },
    [[], ...classes.map(() => [])],
    host,
  );
}

/** Return the path of a curve, broken where nothing was judged. */
function paths(plot, index, first, last) {
  const [times, shares] = [plot.data[0], plot.data[index]];
  const stroke = new Path2D();
  let open = false;
  for (let at = first; at <= last; at++) {
    if (shares[at] == null) {
      open = false;
      continue;
    }
    stroke[open ? "lineTo" : "moveTo"](plot.valToPos(times[at], "x", true), plot.valToPos(shares[at], "y", true));
    open = true;
  }
  return { stroke };
}

/** Draw an edge below the curves whose colour is hard to see on the theme's card. */
function edgeCurves(plot) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.lineWidth = 4 * uPlot.pxRatio;
  ctx.lineJoin = "round";
  ctx.strokeStyle = themeColour("edge");
  plot.series.forEach((series, index) => {
    if (!index || !series.show || !plot.data[0].length || !isFaint(series.stroke())) return;
    ctx.stroke(paths(plot, index, 0, plot.data[0].length - 1).stroke);
  });
  ctx.restore();
}

/** Write every curve's name beside its highest point in view, where it rises above a third: colour is not enough. */
function nameCurves(plot) {
  const { ctx } = plot;
  const { min, max } = plot.scales.x;
  const taken = [];
  ctx.save();
  ctx.font = `600 ${12 * uPlot.pxRatio}px Inter, system-ui, sans-serif`;
  ctx.textAlign = "left";
  ctx.textBaseline = "bottom";
  ctx.lineJoin = "round";
  plot.series.slice(1).forEach((series, index) => {
    if (!series.show) return;
    const best = highest(plot.data[0], plot.data[index + 1], min, max);
    if (best && best.share >= 1 / 3) nameAt(plot, series.label, best, taken);
  });
  ctx.restore();
}

function highest(times, shares, min, max) {
  let best = null;
  for (let at = 0; at < times.length; at++) {
    if (times[at] < min || times[at] > max || shares[at] == null) continue;
    if (!best || shares[at] > best.share) best = { time: times[at], share: shares[at] };
  }
  return best;
}

function nameAt(plot, name, { time, share }, taken) {
  const { ctx, bbox } = plot;
  const size = 14 * uPlot.pxRatio;
  const width = ctx.measureText(name).width;
  const left = Math.min(Math.max(plot.valToPos(time, "x", true) - width / 2, bbox.left + 2), bbox.left + bbox.width - width - 2);
  let bottom = Math.max(plot.valToPos(share, "y", true) - 3 * uPlot.pxRatio, bbox.top + size);
  while (taken.some((box) => left < box.right && box.left < left + width && bottom > box.bottom - size && bottom - size < box.bottom)) {
    bottom += size;
  }
  taken.push({ left, right: left + width, bottom });
  ctx.lineWidth = 4 * uPlot.pxRatio;
  ctx.strokeStyle = themeColour("card");
  ctx.strokeText(name, left, bottom);
  ctx.fillStyle = themeColour("ink");
  ctx.fillText(name, left, bottom);
}
