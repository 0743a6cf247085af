"""Run the commands of the course's pages, and keep the pictures that these pages show.

    python docs/pictures.py              # all pages
    python docs/pictures.py depth        # docs/course/depth.md

Each page starts in an empty folder, with all commands in one process. Printed are their output and, for the minutes that the
pages state, the CPU time of each.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import shlex
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from zoo.cli import app

COURSE = Path(__file__).resolve().parent / "course"
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)  # those with a note, such as skip, do not match
SHOWN = re.compile(r"!\[[^]]*\]\(pictures/([^)]+)\)")
BYTES = 60_000  # of a picture at most
PALETTES, WIDTHS = (256, 128, 64), (2000, 900, 700)  # colors, and pixels that a column of text can show, to try in this order


def commands(page: str) -> list[list[str]]:
    """The ``zoo`` commands of a page in their order, each as its words."""
    lines = [line for block in BLOCK.findall(page) for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("zoo ")]


def run(words: list[str]) -> None:
    """Run a command in this process, and print its CPU time.

    Raises:
        SystemExit: the command failed.
    """
    print(f"$ {shlex.join(words)}", flush=True)
    started = time.process_time()
    sys.argv = words
    try:
        app()
    except SystemExit as stop:
        if stop.code:
            raise
    print(f"# {time.process_time() - started:.0f} s\n", flush=True)


def make(path: Path) -> None:
    """Run a page in a temporary folder, and keep its pictures."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for words in commands(path.read_text()):
            run(words)
        keep(path)
        os.chdir(COURSE)


def keep(path: Path) -> None:
    """Copy what a page shows from the current folder to ``pictures/``."""
    for name in SHOWN.findall(path.read_text()):
        target = path.parent / "pictures" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(small_png(Path(name)))


def small_png(path: Path) -> bytes:
    """Encode a picture with a palette, and smaller where colors alone do not suffice."""
    with Image.open(path) as file:
        picture = file.convert("RGB")
    for width, colors in itertools.product(WIDTHS, PALETTES):
        narrow = picture.copy()
        narrow.thumbnail((width, 2 * width), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        narrow.quantize(colors, kmeans=2, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
        if buffer.tell() <= BYTES:
            break
    return buffer.getvalue()


if __name__ == "__main__":
    for chosen in [COURSE / f"{name}.md" for name in sys.argv[1:]] or sorted(COURSE.glob("*.md")):
        make(chosen)
