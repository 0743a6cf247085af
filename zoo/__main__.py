"""Run the ``zoo`` command with ``python -m zoo``."""

from zoo.cli import app

app()
