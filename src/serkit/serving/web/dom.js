/** Elements made and found; no markup is ever built from text. */

/** Return the element with this id. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}

/** Return a new element: `el("td", {class: "time"}, "0:12")`; keys that begin with "on" are listeners. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

/** Return the small square that carries a class's colour beside its name. */
export function swatch(colour) {
  const made = el("span", { class: "swatch", "aria-hidden": "true" });
  made.style.background = colour; // a property, not a style attribute: the page needs no inline styles
  return made;
}

/** Show or hide elements. */
export function show(visible, ...elements) {
  for (const element of elements) element.hidden = !visible;
}
