/** What the page tells about the server's models. */

import { byId, el, swatch } from "./dom.js";
import { classColours } from "./palette.js";

function classList(model) {
  const colours = classColours(model.classes);
  return model.classes.map((name) => el("span", { class: "label" }, swatch(colours.get(name)), name));
}

function card(model) {
  const facts = [
    ["Tells", classList(model)],
    ["Meant for", [model.intended_use]],
    ["Learnt from", [model.training_data]],
    ["Licence", [model.licence]],
    ["Hears at least", [model.min_seconds ? `${model.min_seconds} s` : null]],
  ];
  const rows = facts.filter(([, told]) => told.some(Boolean)).flatMap(([name, told]) => [el("dt", {}, name), el("dd", {}, ...told)]);
  return el("section", { class: "model", "aria-label": `Model ${model.name}` }, el("h3", {}, model.name), el("dl", {}, ...rows));
}

/** Show the models of the server. */
export function tellModels(models) {
  byId("models").replaceChildren(...models.map(card));
}

/** Say where the voice goes, as the address of the page has it. */
export function tellPrivacy() {
  const here = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
  const where = here ? "Nothing leaves this machine: audio goes only to the server that gave you this page" : `Audio goes only to the server that gave you this page (${location.host})`;
  byId("privacy").textContent = `${where}, and is not kept there.`;
}
