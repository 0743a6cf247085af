"""Export formats and their output files; importable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zoo.core.errors import UserError, unknown
from zoo.core.files import require_writable
from zoo.training.sources import HUB_WEIGHTS

CARD_SUFFIX = ".md"


@dataclass(frozen=True)
class Format:
    """An export format.

    Attributes:
        suffix: of its files; empty for a folder.
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
        Format("hub", "", ("huggingface_hub",), "bestiary, and timm if the network is its own"),
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
    """The output file or folder, by default named after the run in the current folder.

    Raises:
        UserError: wrong suffix, not writable, or a folder with something in it.
    """
    path = Path(output or f"{stem}{format.suffix or '-hub'}")
    if not format.suffix:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"--output {path}: exists, name a new folder or an empty one")
        require_writable("--output", path / HUB_WEIGHTS)
        return path
    if path.suffix != format.suffix:
        raise UserError(f"--output {path}: {format.name} files must end in {format.suffix}")
    require_writable("--output", path)
    if card_file(path, format).is_dir():
        raise UserError(f"--output {path}: {card_file(path, format)} is a folder")
    return path


def card_file(path: Path, format: Format) -> Path:
    """The model card next to an exported file, or in a folder."""
    return path.with_name(path.name + CARD_SUFFIX) if format.suffix else path / "README.md"
