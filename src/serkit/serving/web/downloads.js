/** Files made in the browser: JSON, CSV and WAV. */

function quoted(value) {
  const text = String(value ?? "");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Return the segments of a timeline as CSV: a row each, with a column of every class's probability. */
export function timelineCsv({ segments, classes }) {
  const head = ["start", "end", "label", "confidence", "speaker", "utterance", ...classes.map((name) => `p_${name}`)];
  const rows = segments.map((each) => [
    each.start,
    each.end,
    each.label,
    each.confidence,
    each.speaker,
    each.utterance,
    ...classes.map((name) => each.probabilities[name]),
  ]);
  return [head, ...rows].map((row) => row.map(quoted).join(",") + "\r\n").join("");
}

/** Return a timeline as JSON, as the server told it, without the peaks that the drawing needs. */
export function timelineJson(timeline) {
  const { peaks, ...told } = timeline;
  return JSON.stringify(told, null, 2) + "\n";
}

/** Return 16-bit mono PCM (a list of Int16Array) as a WAV file. */
export function wavFile(chunks, samplingRate, name) {
  const bytes = 2 * chunks.reduce((total, each) => total + each.length, 0);
  const head = new DataView(new ArrayBuffer(44));
  const text = (at, letters) => [...letters].forEach((letter, index) => head.setUint8(at + index, letter.charCodeAt(0)));
  text(0, "RIFF");
  head.setUint32(4, 36 + bytes, true);
  text(8, "WAVEfmt ");
  head.setUint32(16, 16, true);
  head.setUint16(20, 1, true); // PCM
  head.setUint16(22, 1, true); // mono
  head.setUint32(24, samplingRate, true);
  head.setUint32(28, 2 * samplingRate, true);
  head.setUint16(32, 2, true);
  head.setUint16(34, 16, true);
  text(36, "data");
  head.setUint32(40, bytes, true);
  return new File([head, ...chunks], name, { type: "audio/wav" });
}

/** Return `count` numbers in [0, 1]: the largest absolute sample of each part of 16-bit PCM. */
export function pcmPeaks(chunks, count) {
  const total = chunks.reduce((sum, each) => sum + each.length, 0);
  const peaks = new Array(Math.min(count, total)).fill(0);
  let position = 0;
  for (const chunk of chunks) {
    for (const sample of chunk) {
      const at = Math.floor((position++ * peaks.length) / total);
      const loud = Math.abs(sample) / 32768;
      if (loud > peaks[at]) peaks[at] = loud;
    }
  }
  return peaks;
}

/** Let the browser save a file. */
export function save(content, name, type) {
  const address = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
