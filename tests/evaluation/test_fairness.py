"""Fairness by hand: swapped genders, a slipped sign or a lost seed would show."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import polars as pl
import pytest
from statsmodels.stats.proportion import proportion_confint

from serkit.evaluation.fairness import judge_fairness, wilson
from serkit.evaluation.wording import write_fairness

CLASSES = ("happy", "sad")


def create_rows(right: dict[tuple[str, str], list[list[list[int]]]], genders: dict[str, str | None]) -> pl.DataFrame:
    """``right[speaker, truth][seed]`` lists 1 for every utterance that is recognised, else 0."""
    rows = []
    for (speaker, truth), seeds in right.items():
        for seed, answers in enumerate(seeds):
            for number, good in enumerate(answers):
                guess = truth if good else CLASSES[1 - CLASSES.index(truth)]
                rows.append((f"{speaker}{truth}{number}", seed, truth, guess, speaker, genders[speaker]))
    return pl.DataFrame(
        rows, schema=["id", "seed", "truth", "prediction", "speaker", "gender"], orient="row",
        schema_overrides={"gender": pl.String, "speaker": pl.String},
    )  # fmt: skip


def by_hand():
    """Two women with recall 1 and 0.5 (happy), 0.75 (sad); two men with 0.5 and 0.25 (happy), 1 (sad); two seeds."""
    right = {
        ("w1", "happy"): [[1, 1], [1, 1]], ("w1", "sad"): [[1, 1], [1, 0]],
        ("w2", "happy"): [[1, 0], [0, 1]], ("w2", "sad"): [[1, 0], [1, 1]],
        ("m1", "happy"): [[1, 0], [1, 0]], ("m1", "sad"): [[1, 1], [1, 1]],
        ("m2", "happy"): [[0, 0], [1, 0]], ("m2", "sad"): [[1, 1], [1, 1]],
    }  # fmt: skip
    return create_rows(right, {"w1": "female", "w2": "female", "m1": "male", "m2": "male"})


def test_gaps_by_hand():
    made = judge_fairness(by_hand(), CLASSES)["gender"]
    female, male = made["groups"]["female"], made["groups"]["male"]
    assert (female["recall"]["happy"]["value"], female["recall"]["sad"]["value"]) == (0.75, 0.75)
    assert (male["recall"]["happy"]["value"], male["recall"]["sad"]["value"]) == (0.375, 1.0)
    assert (female["uar"]["value"], male["uar"]["value"]) == (0.75, 0.6875)
    gap = made["uar_gap"]
    assert (gap["higher"], gap["lower"], gap["value"]) == ("female", "male", 0.0625)
    happy, sad = made["opportunity"]["happy"], made["opportunity"]["sad"]
    assert (happy["higher"], happy["lower"], happy["value"]) == ("female", "male", 0.375)
    assert (sad["higher"], sad["lower"], sad["value"]) == ("male", "female", 0.25)
    assert (made["opportunity_gap"]["class"], made["opportunity_gap"]["value"]) == ("happy", 0.375)
    assert (made["worst"]["group"], made["worst"]["value"]) == ("male", 0.6875)
    lowest = made["worst_recall"]
    assert (lowest["group"], lowest["class"], lowest["value"], lowest["n"]) == ("male", "happy", 0.375, 4)
    assert (female["n"], female["speakers"], female["recall"]["happy"]["n"], happy["n"]) == (8, 2, 4, 8)


def test_every_seed_counts():
    rows = by_hand()
    values = [judge_fairness(rows.filter(pl.col("seed") == seed), CLASSES)["gender"] for seed in (0, 1)]
    both = judge_fairness(rows, CLASSES)["gender"]
    signed = [made["groups"]["female"]["uar"]["value"] - made["groups"]["male"]["uar"]["value"] for made in values]
    assert signed[0] != signed[1]
    assert both["uar_gap"]["value"] == pytest.approx(np.mean(signed))
    assert both["uar_gap"]["sd_over_seeds"] == pytest.approx(np.std(signed, ddof=1))
    assert "jointly over 2 seeds" in both["uar_gap"]["method"] and "seeds" not in values[0]["uar_gap"]["method"]
    speaker = judge_fairness(rows, CLASSES)["speaker"]["each"]["w1"]
    assert speaker["recall"]["sad"]["value"] == 0.75 and speaker["recall"]["sad"]["n"] == 2


def test_swapped_genders_swap_the_answer():
    rows = by_hand()
    swapped = rows.with_columns(gender=pl.col("gender").replace({"female": "male", "male": "female"}))
    made = judge_fairness(swapped, CLASSES)["gender"]
    assert (made["uar_gap"]["higher"], made["uar_gap"]["value"]) == ("male", 0.0625)
    assert (made["worst"]["group"], made["worst_recall"]["group"]) == ("female", "female")
    assert made["opportunity"]["sad"]["lower"] == "male"


def draw(gap: float, speakers: int = 20, each: int = 30, seeds: int = 1, seed: int = 0) -> pl.DataFrame:
    generator = np.random.default_rng(seed)
    right, genders = {}, {}
    for number in range(speakers):
        name = f"s{number:02d}"
        genders[name] = "male" if number % 2 else "female"
        chance = np.clip(0.75 - gap * (number % 2) + generator.normal(0, 0.05), 0, 1)
        for truth in CLASSES:
            right[name, truth] = (generator.random((seeds, each)) < chance).astype(int).tolist()
    return create_rows(right, genders)


def test_interval_of_a_gap_is_that_of_speakers_drawn_within_their_gender():
    rows = draw(0.25)
    gap = judge_fairness(rows, CLASSES)["gender"]["uar_gap"]
    recall = (
        rows.group_by("speaker", "gender", maintain_order=True)
        .agg((pl.col("truth") == pl.col("prediction")).mean().alias("right"))
        .partition_by("gender", as_dict=True)
    )
    women, men = (recall[(name,)]["right"].to_numpy() for name in ("female", "male"))
    generator = np.random.default_rng(9)
    drawn = [side[generator.integers(0, 10, (4000, 10))].mean(axis=1) for side in (women, men)]
    low, high = np.percentile(drawn[0] - drawn[1], [2.5, 97.5])
    assert gap["value"] == pytest.approx(women.mean() - men.mean())
    assert (gap["low"], gap["high"]) == pytest.approx((low, high), abs=0.006)
    assert gap["higher"] == "female" and gap["low"] > 0 and gap["p"] < 0.01 and gap["value"] > gap["by_chance"]


def test_chance_is_what_dealing_the_genders_gives():
    rows = draw(0.03, speakers=8, each=10, seed=4)
    gap = judge_fairness(rows, CLASSES, resamples=4000)["gender"]["uar_gap"]
    right = rows.with_columns(right=pl.col("truth") == pl.col("prediction"))
    values = right.group_by("speaker", maintain_order=True).agg(pl.col("right").mean())["right"].to_numpy()
    deals = []
    for chosen in combinations(range(8), 4):
        rest = [place for place in range(8) if place not in chosen]
        deals.append(abs(values[list(chosen)].mean() - values[rest].mean()))
    assert gap["p"] == pytest.approx(np.mean(np.array(deals) >= gap["value"] - 1e-12), abs=0.03)
    assert gap["by_chance"] == pytest.approx(np.percentile(deals, 95), abs=0.01)


def test_no_gap_is_seldom_called_one():
    found = [judge_fairness(draw(0.0, 12, 8, seed=seed), CLASSES, 300)["gender"] for seed in range(60)]
    assert np.mean([made["uar_gap"]["p"] < 0.05 for made in found]) < 0.15
    assert np.mean([made["opportunity_gap"]["p"] < 0.05 for made in found]) < 0.15
    assert {made["worst"]["group"] for made in found} == {"female", "male"}
    assert 0.5 <= np.mean([made["worst"]["again"] for made in found]) < 0.9


def test_few_speakers_are_said_to_be_few():
    made = judge_fairness(by_hand(), CLASSES)
    assert any("2 female, 2 male" in note for note in made["notes"])
    assert any("4 utterances or fewer" in note for note in made["notes"])
    one = judge_fairness(by_hand().filter(pl.col("speaker") != "m2"), CLASSES)["gender"]
    assert one["uar_gap"]["low"] is None and "two speakers" in one["uar_gap"]["reason"] and "p" not in one["uar_gap"]
    nameless = judge_fairness(by_hand().with_columns(speaker=pl.lit(None, pl.String)), CLASSES)
    assert nameless["gender"]["uar_gap"]["value"] == 0.0625 and nameless["notes"] == []
    assert nameless["gender"]["uar_gap"]["reason"] == "some speakers are unknown"
    assert one["uar_gap"]["value"] == 0.0 and {one["uar_gap"]["higher"], one["uar_gap"]["lower"]} == {"female", "male"}


def test_nothing_to_compare_is_said():
    rows = by_hand()
    none = judge_fairness(rows.with_columns(gender=pl.lit(None, pl.String), speaker=pl.lit(None, pl.String)), CLASSES)
    assert none["gender"] == {"reason": "no gender is known: nothing to compare"} and none["speaker"] is None
    women = judge_fairness(rows.filter(pl.col("gender") == "female"), CLASSES)["gender"]
    assert women == {"reason": "the gender of all known speakers is female: nothing to compare"}
    assert write_fairness(none, missing="-") == ["fairness: no gender is known: nothing to compare"]
    apart = rows.filter((pl.col("gender") == "female") == (pl.col("truth") == "happy"))
    assert "no class occurs with all" in judge_fairness(apart, CLASSES)["gender"]["reason"]


def test_only_shared_classes_are_compared():
    made = judge_fairness(by_hand().filter((pl.col("gender") == "female") | (pl.col("truth") == "happy")), CLASSES)
    assert made["gender"]["classes"] == ["happy"] and made["gender"]["uar_gap"]["value"] == 0.375
    assert any("1 of 2 classes" in note for note in made["notes"])


def test_speakers_by_hand():
    made = judge_fairness(by_hand(), CLASSES)["speaker"]
    uar = {name: each["uar"]["value"] for name, each in made["each"].items()}
    assert uar == {"m1": 0.75, "m2": 0.625, "w1": 0.875, "w2": 0.625}
    assert made["mean"] == pytest.approx(np.mean(list(uar.values()))) and made["chance"] == 0.5
    assert made["worst"]["speaker"] == "m2" and made["below_chance"]["speakers"] == []
    bad = {
        ("x", "happy"): [[0] * 20],
        ("x", "sad"): [[0] * 20],
        ("y", "happy"): [[1] * 20],
        ("y", "sad"): [[0, 1] * 10],
    }
    made = judge_fairness(create_rows(bad, {"x": None, "y": None}), CLASSES)["speaker"]
    assert made["below_chance"]["speakers"] == made["below_chance"]["surely"] == ["x"]
    assert (made["below_half"]["value"], made["below_half"]["bound"]) == (0.5, 0.1875)
    low, high = proportion_confint(1, 2, method="wilson")
    assert (made["below_half"]["low"], made["below_half"]["high"]) == pytest.approx((low, high))


def test_intervals_of_a_speaker_cover():
    low, high = wilson(np.array([0.3, 1.0]), np.array([20.0, 7.0]))
    assert (low[0], high[0]) == pytest.approx(proportion_confint(6, 20, method="wilson"))
    assert (low[1], high[1]) == pytest.approx(proportion_confint(7, 7, method="wilson"))
    generator, inside = np.random.default_rng(0), []
    for _ in range(300):
        right = {
            ("x", "happy"): [(generator.random(12) < 0.9).tolist()],
            ("x", "sad"): [(generator.random(8) < 0.4).tolist()],
        }
        uar = judge_fairness(create_rows(right, {"x": None}), CLASSES)["speaker"]["each"]["x"]["uar"]
        inside.append(uar["low"] <= 0.65 <= uar["high"])
    assert 0.91 <= np.mean(inside) <= 0.99


def test_a_third_gender_is_compared_too():
    rows = pl.concat(
        [by_hand(), create_rows({("o1", "happy"): [[0], [0]], ("o1", "sad"): [[0], [1]]}, {"o1": "other"})]
    )
    made = judge_fairness(rows, CLASSES)["gender"]
    assert list(made["groups"]) == ["female", "male", "other"]
    assert (made["uar_gap"]["higher"], made["uar_gap"]["lower"], made["uar_gap"]["value"]) == ("female", "other", 0.5)
    assert made["opportunity"]["sad"]["higher"] == "male" and made["worst_recall"]["group"] == "other"
