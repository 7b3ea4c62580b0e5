"""How often the interval of a debiased CKA holds the true value: delete-one-speaker jackknife and percentile bootstrap.

Generated corpora whose utterances share five latent directions and three of their speaker; the truth comes from 20000
speakers. python benchmarks/similarity_intervals.py [--corpora 200]
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from scipy import stats

from serkit.evaluation.layers.similarity import align, centre, linear_cka_of_features, linear_gram, weighted_hsic
from serkit.evaluation.layers.similarity import without_diagonal as hollow

SETTINGS = ((0.5, 0.0), (0.5, 1.0), (0.0, 1.0), (1.0, 0.5))
"""Strength of what utterances and of what speakers have in common."""
UTTERANCES = 12


def draw(rng, speakers, each, common, voice):
    ways = [
        np.random.default_rng(seed).normal(size=size) for seed, size in enumerate(((5, 20), (5, 15), (3, 20), (3, 15)))
    ]
    latent = rng.normal(size=(speakers * each, 5))
    person = np.repeat(rng.normal(size=(speakers, 3)), each, axis=0)
    return [
        common * latent @ ways[side] + voice * person @ ways[2 + side] + 2 * rng.normal(size=(len(latent), width))
        for side, width in enumerate((20, 15))
    ]


def replicate(one, other, weights):
    """Return the debiased CKA for each of ``weights (R, S)`` of speakers: ``(R,)``."""
    per_row = np.repeat(weights, UTTERANCES, axis=1)
    grams = [hollow(linear_gram(centre(each))) for each in (one, other)]
    sums = [per_row @ gram for gram in grams]
    pairs = ((0, 1), (0, 0), (1, 1))
    return align(*(weighted_hsic(grams[a] * grams[b], sums[a], sums[b], per_row, True) for a, b in pairs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=int, default=200)
    count = parser.parse_args().corpora
    results = []
    print("speakers  common  voice  truth   jackknife  bootstrap   (share of intervals that hold the truth)")
    for speakers in (6, 24):
        reach = stats.t.ppf(0.975, speakers - 1)
        for common, voice in SETTINGS:
            truth = linear_cka_of_features(*draw(np.random.default_rng(99), 20_000, 2, common, voice), debiased=True)
            rng, held = np.random.default_rng(0), np.zeros(2)
            for _ in range(count):
                pair = draw(rng, speakers, UTTERANCES, common, voice)
                left = replicate(*pair, np.concatenate([np.ones((1, speakers)), 1 - np.eye(speakers)]))
                error = np.sqrt((speakers - 1) / speakers * np.sum((left[1:] - left[1:].mean()) ** 2))
                drawn = replicate(*pair, rng.multinomial(speakers, np.ones(speakers) / speakers, 300).astype(float))
                low, high = np.nanpercentile(drawn, [2.5, 97.5])
                held += [abs(left[0] - truth) <= reach * error, low <= truth <= high]
            shares = (held / count).tolist()
            print(f"{speakers:8} {common:7} {voice:6}  {truth:.3f} {shares[0]:11.3f} {shares[1]:10.3f}", flush=True)
            results.append([speakers, common, voice, truth, *shares])
    print(json.dumps({"corpora": count, "results": results}))


if __name__ == "__main__":
    main()
