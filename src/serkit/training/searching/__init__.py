"""Hyper-parameter search on dev parts: what is searched, how a trial is judged, the study that workers share."""
