/** The page: give a recording or speak, and see what is expressed. */

import { tellModels, tellPrivacy } from "./about.js";
import { getModels, postTimeline, Problem, useKey } from "./api.js";
import { byId, el, show } from "./dom.js";
import { bytes, duration } from "./format.js";
import { LiveView } from "./live.js";
import { classColours } from "./palette.js";
import { probeSeconds } from "./player.js";
import { Recording } from "./recording.js";
import { ResultView } from "./result.js";

const result = new ResultView();
const live = new LiveView();
const state = { limits: {}, file: null, recording: null, under: null, retry: null };

/* What went wrong, in one line; a server that asks for a key gets the field for it. */

function tell(problem, retry = null) {
  if (problem.code === "cancelled") return;
  if (problem.code === "unauthorized") return askKey(problem, retry);
  const text = problem instanceof Problem ? problem.message : `The page failed: ${problem.message}`;
  const line = byId("problem");
  line.textContent = text;
  show(true, line);
  line.scrollIntoView({ block: "nearest" });
}

function askKey(problem, retry) {
  state.retry = retry;
  if (!byId("key-form").hidden) {
    byId("problem").textContent = problem.message;
    show(true, byId("problem"));
  }
  show(true, byId("key-form"));
  byId("key").focus();
}

function quiet() {
  show(false, byId("problem"));
}

async function start() {
  try {
    const answer = await getModels();
    show(false, byId("key-form"));
    state.limits = answer.limits ?? {};
    tellModels(answer.models);
    tellChoice(answer.models);
    tellLimits();
  } catch (problem) {
    tell(problem, start);
  }
}

function tellChoice(models) {
  const names = models.map((each) => el("option", { value: each.name }, each.name));
  byId("model").replaceChildren(...names);
  show(models.length > 1, byId("model-field"));
}

function tellLimits() {
  const { max_bytes: most, max_seconds: longest } = state.limits;
  const told = [most ? `up to ${bytes(most)}` : null, longest ? `${duration(longest)} long` : null].filter(Boolean);
  byId("limits").textContent = `WAV, FLAC, MP3, OGG, M4A and the sound of videos${told.length ? `; ${told.join(", ")}` : ""}`;
}

function chosenModel() {
  return byId("model-field").hidden ? {} : { model: byId("model").value };
}

/* A file */

function refuseSize(file, turns) {
  const { max_bytes: most } = state.limits;
  if (!file.size) throw new Problem("bad_audio", `${file.name} is empty. Choose another file.`);
  const body = file.size + (turns?.size ?? 0) + 1000; // the form around them
  if (most && body > most) {
    throw new Problem("too_large", `${file.name} has ${bytes(file.size)}, and this server takes at most ${bytes(most)}. Cut it, or save it as MP3.`);
  }
}

function refuseLength(file, seconds) {
  const { max_seconds: longest } = state.limits;
  if (longest && seconds > longest) {
    throw new Problem("too_long", `${file.name} is ${duration(seconds)} long, and this server takes at most ${duration(longest)}. Cut it.`);
  }
}

async function analyse(file, recorded = false) {
  if (state.under || state.recording) return;
  quiet();
  const turns = byId("turns").files[0] ?? null;
  const under = (state.under = new AbortController());
  try {
    refuseSize(file, turns);
    const seconds = await probeSeconds(file);
    refuseLength(file, seconds);
    work(`Sending ${file.name}`);
    const peaks = Math.round(Math.min(10_000, Math.max(1000, (seconds ?? 600) * 20)));
    const options = { curve: true, peaks, speech: byId("speech").checked, ...chosenModel() };
    const timeline = await postTimeline(file, turns, options, { onProgress: (share) => progress(file, share), signal: under.signal });
    finished();
    result.show(timeline, file, recorded);
    Object.assign(state, { file, recorded });
    byId("result-title").focus();
  } catch (problem) {
    finished();
    result.reveal();
    tell(problem, () => analyse(file, recorded));
  }
}

function work(text) {
  document.body.dataset.busy = "";
  result.hide();
  show(true, byId("work"));
  byId("work-text").textContent = text;
  byId("work-bar").value = 0;
}

function progress(file, share) {
  if (!state.under) return;
  if (share < 1) {
    byId("work-bar").value = share;
    byId("work-text").textContent = `Sending ${file.name}`;
    return;
  }
  clearInterval(state.ticking);
  const since = performance.now();
  byId("work-bar").removeAttribute("value");
  byId("work-text").textContent = `Listening to ${file.name}`;
  state.ticking = setInterval(() => {
    byId("work-bar").setAttribute("aria-valuetext", `${duration((performance.now() - since) / 1000)} so far`);
  }, 1000);
}

function finished() {
  state.under = null;
  clearInterval(state.ticking);
  show(false, byId("work"));
}

/* The microphone */

async function record() {
  if (state.under || state.recording) return;
  quiet();
  const recording = new Recording(live, { onReady: begun, onLost: (problem) => lost(recording, problem) });
  state.recording = recording;
  byId("record").disabled = true;
  try {
    await recording.start(chosenModel());
  } catch (problem) {
    ended();
    tell(problem);
  }
}

function begun({ classes }) {
  document.body.dataset.busy = "";
  result.hide();
  show(false, byId("intake"));
  show(true, byId("live"));
  live.begin(classes, classColours(classes));
  byId("stop").disabled = false;
  byId("stop").textContent = "Stop";
  byId("stop").focus();
}

async function stop() {
  const { recording } = state;
  byId("stop").disabled = true;
  byId("stop").textContent = "Finishing…";
  const { timeline, file, problem } = await recording.stop();
  ended();
  keep(timeline, file);
  if (problem) tell(problem);
}

async function lost(recording, problem) {
  if (state.recording !== recording) return;
  const kept = await recording.abandon();
  ended();
  if (kept) keep(kept.timeline, kept.file);
  else result.reveal();
  tell(problem, kept ? null : record);
}

function keep(timeline, file) {
  result.show(timeline, file, true);
  Object.assign(state, { file, recorded: true });
  byId("result-title").focus();
}

function ended() {
  state.recording = null;
  byId("record").disabled = false;
  show(false, byId("live"));
  show(true, byId("intake"));
}

/* What people do */

function listen() {
  const drop = byId("drop");
  const input = byId("file");
  byId("choose").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    const [file] = input.files;
    if (file) analyse(file);
    input.value = ""; // the same file may be chosen again
  });
  for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
  document.addEventListener("dragover", () => (drop.dataset.over = ""));
  for (const name of ["dragleave", "drop"]) document.addEventListener(name, () => delete drop.dataset.over);
  document.addEventListener("drop", (event) => event.dataTransfer.files[0] && analyse(event.dataTransfer.files[0]));
  byId("cancel").addEventListener("click", () => state.under?.abort());
  byId("record").addEventListener("click", record);
  byId("stop").addEventListener("click", stop);
  byId("again").addEventListener("click", () => analyse(state.file, state.recorded));
  byId("turns").addEventListener("change", () => show(byId("turns").files.length > 0, byId("turns-clear")));
  byId("turns-clear").addEventListener("click", () => {
    byId("turns").value = "";
    show(false, byId("turns-clear"));
  });
  byId("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    useKey(byId("key").value);
    quiet();
    const { retry } = state;
    await start();
    if (byId("key-form").hidden && retry && retry !== start) retry();
  });
}

listen();
tellPrivacy();
start();
