"""The formats that a network is exported to: what they are called, what their files end in, and where such a file goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zoo.core.errors import UserError, unknown
from zoo.core.files import require_writable

CARD_SUFFIX = ".md"


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        suffix: what the names of its files end in.
        needs: packages beside those of the zoo that write and check it.
        loads: what loads it, in words.
    """

    name: str
    suffix: str
    needs: tuple[str, ...]
    loads: str


FORMATS = {
    format.name: format
    for format in (
        Format("safetensors", ".safetensors", (), "the zoo itself, to predict, to test, to serve and to train on"),
        Format("onnx", ".onnx", ("onnx", "onnxscript", "onnxruntime"), "ONNX Runtime and others, without torch or the zoo"),
        Format("torch-export", ".pt2", (), "torch alone, without the zoo"),
    )
}


def find_format(name: str) -> Format:
    """The format of that name.

    Raises:
        UserError: there is none.
    """
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    return FORMATS[name]


def output_file(format: Format, output: str, stem: str) -> Path:
    """Where the file goes: ``output``, or one in the current folder that is named after the run.

    Raises:
        UserError: its name does not end as it should, or nothing can be written there.
    """
    path = Path(output or f"{stem}{format.suffix}")
    if path.suffix != format.suffix:
        raise UserError(f"--output {path}: the name of a file for {format.name} must end in {format.suffix}")
    require_writable("--output", path)
    if card_file(path).is_dir():
        raise UserError(f"--output {path}: {card_file(path)} is a folder")
    return path


def card_file(path: Path) -> Path:
    """The model card that lies beside an exported file."""
    return path.with_name(path.name + CARD_SUFFIX)
