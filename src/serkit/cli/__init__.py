"""The command line: every verb is a thin call into the package. See ``serkit --help``.

Exit status: 0 done, 1 work failed, 2 bad input. Errors are one line on stderr. A module here holds the verbs of one
kind; the order in which they are imported is the order of the help.
"""

from __future__ import annotations

from serkit.cli.app import app, main

from serkit.cli import recognise, listen, serve, corpora, loudness, features, words, learn, pretrain  # isort: skip
from serkit.cli import search, judge, timelines, ensembles, tables, statistics, analyse, i3, papers  # isort: skip

__all__ = [
    "analyse",
    "app",
    "corpora",
    "ensembles",
    "features",
    "i3",
    "judge",
    "learn",
    "listen",
    "loudness",
    "main",
    "papers",
    "pretrain",
    "recognise",
    "search",
    "serve",
    "statistics",
    "tables",
    "timelines",
    "words",
]
