/** Times, sizes and shares as people read them. */

/** Return seconds as "1:02.5" (or "1:02:03.5"); without `tenths` as "1:02". */
export function clock(seconds, tenths = true) {
  const ticks = Math.round(Math.max(0, seconds) * (tenths ? 10 : 1));
  const whole = Math.floor(tenths ? ticks / 10 : ticks);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (value) => String(value).padStart(2, "0");
  const tail = tenths ? `.${ticks % 10}` : "";
  return (hours ? `${hours}:${two(minutes)}` : `${minutes}`) + `:${two(rest)}${tail}`;
}

/** Return seconds as words: "2 min 5 s". */
export function duration(seconds) {
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
}

/** Return a number of bytes as "3.2 MB". */
export function bytes(count) {
  const units = ["bytes", "kB", "MB", "GB"];
  const power = Math.min(3, Math.max(0, Math.floor(Math.log10(Math.max(1, count)) / 3)));
  const value = count / 1000 ** power;
  return `${value < 10 && power ? value.toFixed(1) : Math.round(value)} ${units[power]}`;
}

/** Return a probability as "71 %". */
export function percent(share) {
  return `${Math.round(100 * share)} %`;
}

/** Return a name with a capital first letter. */
export function capital(name) {
  return name.charAt(0).toUpperCase() + name.slice(1);
}
