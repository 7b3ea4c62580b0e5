"""Figures that papers published, as data."""
