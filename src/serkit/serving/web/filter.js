/** Which classes are shown: a checkbox each, with the share of time. */

import { byId, el, swatch } from "./dom.js";
import { percent } from "./format.js";

/** Return the share of the judged time per class, the largest first, classes without any last. */
export function shares(segments, classes) {
  const seconds = new Map(classes.map((name) => [name, 0]));
  for (const each of segments) seconds.set(each.label, (seconds.get(each.label) ?? 0) + each.end - each.start);
  const total = [...seconds.values()].reduce((sum, value) => sum + value, 0);
  const found = [...seconds].map(([name, value]) => [name, total ? value / total : 0]);
  return found.sort((one, other) => other[1] - one[1]);
}

/** Fill the fieldset; `onChange(shown)` gets the set of chosen classes. */
export function drawFilter(ranked, colours, onChange) {
  const host = byId("filter");
  const boxes = ranked.map(([name]) => el("input", { type: "checkbox", value: name, checked: true, onchange: tell }));
  function tell() {
    onChange(new Set(boxes.filter((box) => box.checked).map((box) => box.value)));
  }
  const chips = ranked.map(([name, share], at) => {
    const faint = share ? el("span", { class: "faint number" }, percent(share)) : null;
    return el("label", {}, boxes[at], swatch(colours.get(name)), name, faint);
  });
  host.replaceChildren(host.querySelector("legend"), ...chips);
}

/** Draw the bar of shares and say in a sentence what it shows. */
export function drawSummary(ranked, colours) {
  const present = ranked.filter(([, share]) => share > 0);
  const told = present.map(([name, share]) => `${name} ${percent(share)}`);
  const bar = byId("shares");
  bar.replaceChildren(
    ...present.map(([name, share]) => {
      const part = el("span");
      part.style.width = `${100 * share}%`;
      part.style.background = colours.get(name);
      return part;
    }),
  );
  bar.hidden = !present.length;
  bar.setAttribute("aria-label", `Share of the speech: ${told.join(", ")}`);
  const [first, second] = present;
  let sentence = "No speech was found here. With “Find the speech first” switched off, everything is judged.";
  if (first && !second) sentence = `Expressed throughout: ${first[0]}.`;
  if (second) sentence = `Mostly ${first[0]} (${percent(first[1])} of what was judged), then ${second[0]} (${percent(second[1])}).`;
  byId("summary").textContent = sentence;
}
