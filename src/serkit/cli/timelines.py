"""The verb that judges timelines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serkit.cli.app import app


@app.command()
def eder(
    reference: Annotated[
        Path, typer.Argument(help="who annotated what: JSON as of ZED, .csv of id,start,end,label, .rttm, timelines")
    ],
    hypothesis: Annotated[
        Path, typer.Argument(help="of serkit predict --timeline (json or csv), or any kind that references have")
    ],
    neutral: Annotated[
        str, typer.Option(help="labels that are no emotion, separated by commas; what is not labelled never is")
    ] = "neutral",
    collar: Annotated[
        float, typer.Option(min=0, help="seconds by which a boundary may be early or late (boundaries alone)")
    ] = 0.25,
    frame: Annotated[
        float | None, typer.Option(help="put hypotheses to frames of so many seconds first; SpeechBrain's are 0.02")
    ] = None,
    absent_is_neutral: Annotated[
        bool, typer.Option("--absent-is-neutral", help="a recording without hypothesis is neutral throughout")
    ] = False,
    output: Annotated[Path | None, typer.Option("--json", help="file for all numbers, - for stdout alone")] = None,
) -> None:
    """Judge which emotion was said to appear when: the emotion diarization error rate and what it is made of."""
    import json

    from serkit.data.files import write_json
    from serkit.evaluation.diarization import judge_tracks
    from serkit.evaluation.diarization_text import format_diarization
    from serkit.evaluation.timelines import pair_tracks, read_tracks

    references, hypotheses = read_tracks(reference), read_tracks(hypothesis)
    pairs = pair_tracks(references, hypotheses, absent_is_neutral)
    names = [name.strip() for name in neutral.split(",") if name.strip()]
    made = judge_tracks(pairs, names, collar, frame)
    if output == Path("-"):
        typer.echo(json.dumps(made, ensure_ascii=False, allow_nan=False))
        return
    typer.echo(format_diarization(made))
    silent = sum(id not in hypotheses and not found.stretches for id, (_, found) in zip(references, pairs, strict=True))
    if silent:
        typer.echo(f"serkit: {silent} of {len(pairs)} recordings have no hypothesis: neutral throughout", err=True)
    if output is not None:
        write_json(output, made)
