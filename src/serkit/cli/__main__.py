"""``python -m serkit.cli`` is ``serkit``."""

from serkit.cli import main

main()
