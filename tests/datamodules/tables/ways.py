"""One set of images in every form that is read: a folder, tables, and what the library ``datasets`` writes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from zoo.datamodules.files.image_tree import split_called


def rows_of_folder(root: Path) -> list[dict[str, str]]:
    """A row for each image: path, label, and split if there are folders for splits."""
    rows = []
    for path in sorted(path for path in root.rglob("*") if path.suffix in (".png", ".jpg")):
        name = path.relative_to(root).as_posix()
        split = split_called(name.partition("/")[0])
        rows.append({"file_name": name, "label": path.parent.name, **({"split": split} if split else {})})
    return rows


def write_csv(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def write_embedded(folder: Path, root: Path, with_folders: bool = True) -> Path:
    """Parquet files, one for each split, that hold the images; their recorded paths are with or without folders."""
    by_split: dict[str, list[dict[str, Any]]] = {}
    for row in rows_of_folder(root):
        path = root / row["file_name"]
        image = {"bytes": path.read_bytes(), "path": row["file_name"] if with_folders else path.name}
        by_split.setdefault(row.get("split", "train"), []).append({"image": image, "label": row["label"]})
    for split, rows in by_split.items():
        write_parquet(folder / "data" / f"{split}-00000-of-00001.parquet", rows)
    return folder


def all_ways(root: Path, place: Path) -> dict[str, list[str]]:
    """The arguments of ``zoo train`` for each form of the images in a folder."""
    rows = rows_of_folder(root)
    beside = write_csv(root / "labels.csv", rows)
    return {
        "folder": ["--data", f"{root}/"],
        "csv": ["--data", str(beside)],
        "parquet": ["--data", str(write_parquet(place / "labels.parquet", rows)), "--set", f"data.root={root}"],
        "hub-folder": ["--data", "hf", "--set", f"data.path={root}"],
        "hub-embedded": ["--data", "hf", "--set", f"data.path={write_embedded(place / 'embedded', root)}"],
        "hub-names": ["--data", "hf", "--set", f"data.path={write_embedded(place / 'names', root, with_folders=False)}"],
    }
