"""Export formats and their output files; importable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zoo.core.errors import UserError, unknown
from zoo.core.files import require_writable

CARD_SUFFIX = ".md"


@dataclass(frozen=True)
class Format:
    """An export format.

    Attributes:
        suffix: of its files.
        needs: additional packages to write and check it.
        loads: description of what loads it.
    """

    name: str
    suffix: str
    needs: tuple[str, ...]
    loads: str


FORMATS = {
    format.name: format
    for format in (
        Format("safetensors", ".safetensors", (), "bestiary, to predict, test, serve and fine-tune"),
        Format("onnx", ".onnx", ("onnx", "onnxscript", "onnxruntime"), "ONNX Runtime and others, without torch or bestiary"),
        Format("torch-export", ".pt2", (), "torch alone, without bestiary"),
    )
}


def find_format(name: str) -> Format:
    """Look up a format.

    Raises:
        UserError: unknown name.
    """
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    return FORMATS[name]


def output_file(format: Format, output: str, stem: str) -> Path:
    """The output file, by default named after the run in the current folder.

    Raises:
        UserError: wrong suffix, or not writable.
    """
    path = Path(output or f"{stem}{format.suffix}")
    if path.suffix != format.suffix:
        raise UserError(f"--output {path}: {format.name} files must end in {format.suffix}")
    require_writable("--output", path)
    if card_file(path).is_dir():
        raise UserError(f"--output {path}: {card_file(path)} is a folder")
    return path


def card_file(path: Path) -> Path:
    """The model card beside an exported file."""
    return path.with_name(path.name + CARD_SUFFIX)
