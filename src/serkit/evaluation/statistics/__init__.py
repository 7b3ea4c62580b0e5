"""How far figures and differences can be trusted: intervals, tests, analysis of variance, mixed models, power."""
