/** The server's answers, and its errors as one clear line. */

let key = ""; // in memory only: gone with the page

/** Use this key for all further requests. */
export function useKey(value) {
  key = value.trim();
}

/** The key as the WebSocket carries it; browsers let a page set no headers there. */
export function streamProtocols() {
  return key ? ["serkit.stream", `serkit.key.${base64url(key)}`] : ["serkit.stream"];
}

function base64url(text) {
  const raw = String.fromCharCode(...new TextEncoder().encode(text));
  return btoa(raw).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** What went wrong, told in one line; `code` is the server's, or "gone" and "cancelled". */
export class Problem extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

const GONE = "The server does not answer. Is it still running? Start it with: serkit serve";

function problemOf(status, text, retryAfter) {
  let told;
  try {
    told = JSON.parse(text).error;
  } catch {
    told = null; // a proxy's page, say
  }
  if (!told?.message) return new Problem("internal", `The server answered ${status} without an explanation.`);
  const wait = retryAfter ? ` Try again in ${retryAfter} s.` : "";
  return new Problem(told.code, told.message + wait);
}

function address(path, options = {}) {
  const made = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries(options)) if (value != null && value !== "") made.searchParams.set(name, value);
  return made;
}

/** Return the server's models and limits: the answer of GET /v1/models. */
export async function getModels() {
  let answer;
  try {
    answer = await fetch(address("v1/models"), { headers: key ? { Authorization: `Bearer ${key}` } : {} });
  } catch {
    throw new Problem("gone", GONE);
  }
  const text = await answer.text();
  if (!answer.ok) throw problemOf(answer.status, text, answer.headers.get("Retry-After"));
  return JSON.parse(text);
}

/**
 * Send a recording, and a file of turns or null, and return its timeline.
 * `onProgress` is told the share that has been sent; `signal` cancels. XMLHttpRequest, because fetch tells no progress.
 */
export function postTimeline(file, turns, options, { onProgress, signal }) {
  const form = new FormData();
  form.append("file", file, file.name);
  if (turns) form.append("turns", turns, turns.name);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address("v1/timeline", options));
    if (key) request.setRequestHeader("Authorization", `Bearer ${key}`);
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.upload.onload = () => onProgress(1);
    request.onload = () => {
      if (request.status === 200) resolve(JSON.parse(request.responseText));
      else reject(problemOf(request.status, request.responseText, request.getResponseHeader("Retry-After")));
    };
    request.onerror = () => reject(new Problem("gone", GONE));
    request.onabort = () => reject(new Problem("cancelled", "Cancelled."));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

/** Return the address of the live stream. */
export function streamAddress(options) {
  const made = address("v1/stream", options);
  made.protocol = made.protocol === "https:" ? "wss:" : "ws:";
  return made;
}
