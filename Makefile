.PHONY: demo test lint types clean

python ?= python3.11
venv := .venv
bin := $(venv)/bin

demo: $(venv)/base ## recognise the emotion expressed in the example recordings
	$(bin)/serkit predict examples

test: lint types ## lint, types and tests
	$(bin)/python -m pytest -n 2 --dist loadfile

lint: $(venv)/dev
	$(bin)/ruff check .
	$(bin)/ruff format --check .

types: $(venv)/dev
	$(bin)/mypy

$(bin)/python:
	$(python) -m venv $(venv)

$(venv)/base: pyproject.toml constraints.txt | $(bin)/python
	$(bin)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(venv)/dev: pyproject.toml constraints.txt | $(bin)/python
	$(bin)/python -m pip install --quiet --constraint constraints.txt torch
	$(bin)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(venv)/base $@

clean:
	rm -rf $(venv) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
