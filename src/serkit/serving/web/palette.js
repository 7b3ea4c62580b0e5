/** One colour for every class, the same as serkit.inference.palette (a test compares the two). */

export const COLOURS = {
  angry: "#c64710",
  happy: "#f5aa00",
  sad: "#1a71ff",
  neutral: "#b8b7a9",
  fearful: "#73308d",
  disgusted: "#17593b",
  surprised: "#22cdee",
  calm: "#8fcf8a",
  bored: "#8a6d4b",
  excited: "#ffd97a",
  frustrated: "#e88aa8",
  contempt: "#5b6b2f",
  positive: "#f5aa00",
  negative: "#1a71ff",
  other: "#6f7479",
  unknown: "#d9dadc",
};

/** For classes without a colour of their own, in their order; after eight they begin again. */
export const FALLBACK = ["#a3456b", "#4f8f8b", "#9a7fd1", "#b58b2a", "#3f4f8a", "#7fb3d5", "#c98f6b", "#44663a"];

/** Return the colour of every class as a Map. */
export function classColours(classes) {
  let others = 0;
  return new Map(classes.map((name) => [name, Object.hasOwn(COLOURS, name) ? COLOURS[name] : FALLBACK[others++ % FALLBACK.length]]));
}

function luminance(hex) {
  const [red, green, blue] = [1, 3, 5].map((at) => {
    const value = parseInt(hex.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** Return the better readable of white and near-black on a colour. */
export function inkOn(hex) {
  return 1.05 / (luminance(hex) + 0.05) > (luminance(hex) + 0.05) / 0.059 ? "#ffffff" : "#15181c";
}

/** Tell whether a colour has less than three times the contrast with the cards of the theme: then it needs an edge. */
export function isFaint(hex) {
  const [one, other] = [luminance(hex), luminance(themeColour("card"))].sort();
  return (other + 0.05) / (one + 0.05) < 3;
}

/** Return a colour of the theme, by the name of its custom property. */
export function themeColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}
