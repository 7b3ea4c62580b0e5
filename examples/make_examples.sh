#!/usr/bin/env bash
# Rebuilds the example clips.  Needs: Debian 12 (bookworm) with apt-get,
# and a Python with numpy, soundfile and soxr.
#   bash make_examples.sh [OUTPUT_FOLDER]      (PYTHON=... picks the interpreter)
set -euo pipefail
out=$(realpath -m "${1:-.}"); py=${PYTHON:-python3}
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
cd "$work"

# 1. recordings of human voices: unpack the two Debian packages (nothing is installed)
apt-get download flight-of-the-amazon-queen=1.0.0-9 unknown-horizons=2019.1-6
for deb in *.deb; do dpkg-deb -x "$deb" .; done

# 2. cut, resample to 16 kHz mono, normalise the peak, write FLAC
"$py" - "$out" <<'PY'
import io, struct, sys
import numpy as np, soundfile as sf, soxr

OUT = sys.argv[1]
QUEEN = "usr/share/scummvm/flight-of-the-amazon-queen/queen.1c"
ISLANDS = "usr/share/unknown-horizons/content/audio/voice/en/0/new_world/0.ogg"

data = open(QUEEN, "rb").read()
assert data[:4] == b"QTBL"
count = struct.unpack(">H", data[13:15])[0]
index = {}
for i in range(count):  # name[12], bundle (1 byte), offset (4), size (4), big-endian
    o = 15 + 21 * i
    name = data[o:o + 12].split(b"\0")[0].decode("ascii")
    index[name] = struct.unpack(">II", data[o + 13:o + 21])

def mono(source):
    x, sr = sf.read(source)
    if x.ndim > 1:
        x = x.mean(1)
    return soxr.resample(x, sr, 16000)

def trim(x, keep=0.06, hop=160, below_db=38):
    n = len(x) // hop
    e = np.sqrt((x[:n * hop].reshape(n, hop) ** 2).mean(1) + 1e-12)
    on = np.nonzero(e > e.max() * 10 ** (-below_db / 20))[0]
    k = int(keep * 16000)
    return x[max(0, on[0] * hop - k):(on[-1] + 1) * hop + k]

def queen(*names):
    gap, parts = np.zeros(int(0.12 * 16000)), []
    for n in names:
        offset, size = index[n + ".SB"]
        parts += [trim(mono(io.BytesIO(data[offset:offset + size]))), gap]
    return np.concatenate(parts[:-1])

Q = ("MODIFIED excerpt of Flight of the Amazon Queen (C) John Passfield and Steven Stamatiadis; "
     "licence: licences/flight-of-the-amazon-queen-readme.txt")
I = "MODIFIED excerpt of Unknown Horizons (C) Unknown Horizons Team; CC BY-SA 3.0"

def save(name, x, note):
    x = x - x.mean()
    f = 160
    x[:f] *= np.linspace(0, 1, f)
    x[-f:] *= np.linspace(1, 0, f)
    x = x * (10 ** (-1 / 20) / np.abs(x).max())
    with sf.SoundFile(f"{OUT}/{name}.flac", "w", 16000, 1, "PCM_16") as fh:
        fh.comment = note
        fh.write(x)

save("angry-furious", queen("180008P2", "180008P3"), Q)
save("fearful-leeches", queen("1800A5P2", "1800A5P3"), Q)
save("happy-you-did-it", queen("C69G_141", "C69G_151"), Q)
save("sad-dumped", queen("C31B_142"), Q)
save("neutral-islands", trim(mono(ISLANDS)), I)
PY
