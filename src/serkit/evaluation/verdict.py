"""Comparisons in words: what is shown, how sure that is, and what would be needed where nothing is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serkit.evaluation.compare import FEWEST_SEEDS, LEVEL
from serkit.evaluation.report import FEW_SPEAKERS
from serkit.evaluation.wording import write_p, write_words

Numbers = Mapping[str, Any]


def format_pair(pair: Numbers) -> str:
    """Return a few lines on a pair of :func:`~serkit.evaluation.compare.compare_folders`: the first has the verdict."""
    stamps = [write_words(stamp, missing="speakers shared: not recorded") for stamp in pair["stamps"]]
    stamp = stamps[0] if stamps[0] == stamps[1] else f"{pair['base']} {stamps[0]}, {pair['run']} {stamps[1]}"
    left_out = f" ({pair['left_out']} that one run alone judges left out)" if pair["left_out"] else ""
    lines = [
        f"{pair['run']} {pair['b']['value']:.3f}, {pair['base']} {pair['a']['value']:.3f}: "
        f"{pair['metric']} differs by {pair['difference']:+.3f} (95 % interval {pair['low']:+.3f} to "
        f"{pair['high']:+.3f}); {say_difference(pair)}",
        f"    n {pair['n']}{left_out}, {pair['speakers']} speakers; {stamp}; "
        f"{pair['below_zero']:.1%} of resamples below 0",
        f"    {_tests(pair)}",
        f"    {say_power(pair)}",
    ]
    if pair["protocol_differences"]:
        lines.append(f"    NOT THE SAME PROTOCOL: {'; '.join(pair['protocol_differences'])}")
    return "\n".join(lines)


def say_difference(pair: Numbers) -> str:
    """Return in words what interval and p of a comparison show, and how far they can be trusted."""
    name, p = pair.get("run", "the second run"), pair.get("p_holm", pair["p"])
    verdict = pair["verdict"]
    if verdict != "no difference shown":
        side = "above" if verdict == "higher" else "below"
        better = "better" if (verdict == "higher") != pair["lower_is_better"] else "worse"
        said = f"{name} is {verdict} ({better}): the interval lies {side} 0, p {write_p(p)}"
    elif pair["low"] <= 0 <= pair["high"]:
        largest = max(abs(pair["low"]), abs(pair["high"]))
        said = f"no difference shown: the interval contains 0 (and excludes differences larger than {largest:.3f})"
    else:
        side, smallest = "above" if pair["low"] > 0 else "below", pair["permutation"].get("smallest")
        said = f"no difference shown: the interval lies {side} 0, but p {write_p(p)}"
        if smallest is not None and smallest >= LEVEL:
            said += f" (so few speakers cannot give one below {smallest:.3f})"
    few = pair["speakers"] < FEW_SPEAKERS
    return said + (" (few speakers: it is likely too narrow)" if few else "")


def _tests(pair: Numbers) -> str:
    said = [f"permutation p {write_p(pair['p'])}"]
    if pair.get("comparisons", 1) > 1:
        said[0] += f" (Holm over {pair['comparisons']} comparisons: {write_p(pair['p_holm'])})"
    made = pair["mcnemar"]
    if made is not None:
        said.append(
            f"McNemar p {write_p(made['p'])} (right in one only: {made['only_a']:.4g} and {made['only_b']:.4g})"
        )
    seeds = pair["over_seeds"]
    if seeds is None:
        said.append(f"no test over seeds (both runs need {FEWEST_SEEDS})")
    else:
        paired = "paired" in seeds  # a seed decides on more than the luck of training where it draws the folds
        test, name, size = (
            (seeds["paired"], "paired t", "d_z") if paired else (seeds["welch"], "Welch's t", "Hedges' g")
        )
        counts = f"the same {pair['a']['seeds']}" if paired else f"{pair['a']['seeds']} and {pair['b']['seeds']}"
        shown = "" if test.get("effect") is None else f", {size} {test['effect']:+.2f}"
        said.append(f"over {counts} seeds {name} p {write_p(test['p'])}{shown}")
    return "; ".join(said)


def say_power(pair: Numbers) -> str:
    """Return what a comparison could have shown and, where it shows nothing, what it would take."""
    made = pair["power"]
    wanted = f"{made['wanted']:.0%}"
    said = f"{wanted} power for differences of {made['smallest']:.3f} or more"
    if pair.get("verdict", "no difference shown") != "no difference shown":
        return said
    said += f"; for {made['difference']:g} power was {made['power']:.0%}"
    if made["power"] >= made["wanted"]:
        return said
    said += f": {wanted} would take about"
    needs = [f"{_count(made['needed'])} {made['units']} (have {made['have']})"]
    if made["seeds"] is not None:
        needs.append(
            f"{_count(made['seeds']['needed'])} seeds (have {made['seeds']['have']}) to tell training luck apart"
        )
    counted = made["mcnemar"]
    if counted is not None and counted["utterances"] is not None:
        needs.append(f"{counted['utterances']} utterances (have {pair['n']}) for McNemar's test")
    return f"{said} {', '.join(needs)}"


def _count(needed: int | None) -> str:
    return "no number of" if needed is None else str(needed)


def format_mixed(made: Numbers) -> str:
    """Return lines on a mixed model: an odds ratio of being right for every system, then what is random."""
    lines = [f"mixed model over {made['answers']} answers, odds of being right against {made['base']}:"]
    for name, odds in [*made["systems"].items(), *made["covariates"].items()]:
        interval = f"95 % interval {odds['low']:.3g} to {odds['high']:.3g}"
        lines.append(f"    {name}: odds ratio {odds['odds_ratio']:.3g} ({interval}), p {write_p(odds['p'])}")
    spread = ", ".join(f"{name} {value:.2f} ({made['levels'][name]})" for name, value in made["deviations"].items())
    return "\n".join([*lines, f"    standard deviations of log odds: {spread}"])


def format_plan(made: Numbers) -> str:
    """Return lines on a plan of :func:`~serkit.evaluation.statistics.planning.plan_runs`."""
    wanted = f"{made['wanted']:.0%}"
    lines = [
        f"{made['metric']}, n {made['n']}, {made['have']} {made['units']}; from {made['from']}",
        f"smallest difference with {wanted} power: {made['smallest']:.4f}",
        f"power for a difference of {made['difference']:g}: {made['power']:.1%}; "
        f"{wanted} needs about {_count(made['needed'])} {made['units']}",
    ]
    seeds, counted = made["seeds"], made["mcnemar"]
    if seeds is not None:
        lines.append(
            f"seeds, t-test of their values on these utterances (sd {seeds['sd']:.4f}): power with {seeds['have']} a "
            f"side {seeds['power']:.1%}; {wanted} needs {_count(seeds['needed'])} a side"
        )
    if counted is not None and counted["power"] is not None:
        correlation = "unknown" if counted["correlation"] is None else f"{counted['correlation']:.3f}"
        lines.append(
            f"right answers, McNemar (discordant {counted['discordant']:.3f}, correlation within speakers "
            f"{correlation}, design effect {counted['design_effect']:.2f}): power {counted['power']:.1%}; "
            f"{wanted} needs about {_count(counted['utterances'])} utterances"
        )
    return "\n".join(lines)
