"""``zoo embed`` and ``zoo probe``: the features of a network, in a file, and what they are worth for other data."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from zoo.api.trained import load
from zoo.commands.predictions import UntilFault
from zoo.commands.shell import (
    Checkpoint,
    Json,
    PublishedWeights,
    RunOrNetwork,
    echo,
    open_registry,
    print_json,
    print_table,
    whole_number,
    zoo_command,
)
from zoo.commands.train import DataName
from zoo.core.errors import UserError
from zoo.core.files import replacing, require_writable
from zoo.core.printing import csv_line, printable

if TYPE_CHECKING:
    from torch import Tensor

    Batches = Iterable[tuple[list[str], Tensor]]  # files, and their features [n, d]

INSTALL_PARQUET = "pip install 'bestiary[hf]'"


def embed(
    context: typer.Context,
    run: RunOrNetwork,
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Images or folders of images.")],
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FILE", help="Output: FILE.npz, FILE.parquet or FILE.csv; default features.npz."),
    ] = "features.npz",
    weights: PublishedWeights = "",
    settings: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Published network: a setting, as in recipe.weights_key=model_ema."),
    ] = [],  # noqa: B006
    checkpoint: Checkpoint = "best",
    json: Json = False,
) -> None:
    """Write the features of images: what the last layer of a classifier is given, as float32.

    Images are prepared as in zoo predict, and unreadable ones skipped likewise.

    [bold]zoo embed efficientnet-lite0 photos/[/bold]   features.npz: files [n], and features [n, 1280]\n
    [bold]zoo embed flowers photos/ one.jpg -o flowers.parquet[/bold]   of one of your runs, as a table\n
    [bold]zoo embed torchvision:resnet50 photos/ -o photos.csv[/bold]   a column for each feature
    """
    write = _writer(output)
    open_registry(context)
    trained = load(run, checkpoint=checkpoint, weights=weights, settings=settings)
    path, batches = Path(output), UntilFault(trained.stream_features(inputs, progress=True))
    shape = [0, 0]
    with replacing(path) as file:
        write(_counted(batches, shape), file)
    if json:
        print_json({"file": output, "images": shape[0], "features": shape[1]})
    else:
        echo(f"{output}: {shape[1]:,} features of each of {shape[0]:,} images")
        echo(f"next: {zoo_command(context)} probe {shlex.quote(run)} --data FOLDER")
    batches.raise_fault()


def _writer(output: str) -> Writer:
    """The function that writes files of this ending.

    Raises:
        UserError: there is none, it needs a package, or the file cannot be written.
    """
    ending = Path(output).suffix.lower()
    if ending not in WRITERS:
        raise UserError(f"--output {output}: its name must end in {', '.join(WRITERS)}")
    require_writable("--output", Path(output))
    if ending == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise UserError(f"--output {output}: needs pyarrow, which is not installed: {INSTALL_PARQUET}") from None
    return WRITERS[ending]


def _counted(batches: Batches, shape: list[int]) -> Iterator[tuple[list[str], Tensor]]:
    """Pass on batches, and keep the number of images and of features in ``shape``."""
    for files, features in batches:
        shape[:] = shape[0] + len(files), features.shape[1]
        yield files, features


def _write_npz(batches: Batches, file: BinaryIO) -> None:
    import numpy as np

    found = list(batches)
    features = np.concatenate([part.numpy() for _, part in found])
    np.savez(file, files=np.array(list(chain.from_iterable(names for names, _ in found))), features=features)


def _write_parquet(batches: Batches, file: BinaryIO) -> None:
    import pyarrow
    from pyarrow import parquet

    writer = None
    for names, features in batches:
        values = pyarrow.array(features.numpy().reshape(-1))
        columns = {
            "file": pyarrow.array(list(map(printable, names))),
            "features": pyarrow.FixedSizeListArray.from_arrays(values, features.shape[1]),
        }
        table = pyarrow.table(columns)
        writer = writer or parquet.ParquetWriter(file, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


def _write_csv(batches: Batches, file: BinaryIO) -> None:
    is_first = True
    for names, features in batches:
        if is_first:
            file.write(csv_line(["file", *(f"feature_{place}" for place in range(features.shape[1]))]).encode())
            is_first = False
        for name, row in zip(names, features.tolist(), strict=True):
            file.write(csv_line([name, *(f"{value:.9g}" for value in row)]).encode())  # 9 digits give a float32 back


Writer = type(_write_csv)
WRITERS = {".npz": _write_npz, ".parquet": _write_parquet, ".csv": _write_csv}


def probe(
    context: typer.Context,
    run: RunOrNetwork,
    data: DataName = "",
    neighbors: Annotated[str, typer.Option("--neighbors", "-k", metavar="K", help="Number of nearest neighbors.")] = "20",
    weights: PublishedWeights = "",
    settings: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a data setting, as in data.size=160, or one of a published network."
        ),
    ] = [],  # noqa: B006
    checkpoint: Checkpoint = "best",
    json: Json = False,
) -> None:
    """Measure what the features of a network are worth: test accuracy of k nearest neighbors, and of a linear probe.

    Features are computed once and cached, so the second command on the same images answers at once.

    [bold]zoo probe efficientnet-lite0 --data photos/[/bold]   before fine-tuning: which backbone suits your images\n
    [bold]zoo probe timm:resnet18.a1_in1k --data photos/[/bold]   the next candidate\n
    [bold]zoo probe resnet20-digits[/bold]   what one of your runs has learned, on its own data
    """
    k = whole_number("--neighbors", neighbors)
    open_registry(context)
    of_data = [text for text in settings if text.strip().startswith("data.")]
    of_network = [text for text in settings if text not in of_data]
    trained = load(run, checkpoint=checkpoint, weights=weights, settings=of_network)
    found = trained.probe(data or None, settings=of_data, neighbors=k)
    if json:
        print_json({"network": run, **vars(found)})
        return
    counts = f"{found.images['train']:,} training, {found.images['val']:,} validation and {found.images['test']:,} test images"
    echo(f"{run} on {found.data}: {found.features:,} features of {counts}")
    rows = [("k-NN", f"{found.knn:.4f}", f"k={found.neighbors}, weighted by cosine similarity")]
    rows += [("linear probe", f"{found.linear:.4f}", f"L2 penalty {found.penalty:g}, by the validation images")]
    print_table(rows, ("classifier", "test accuracy", "settings"), numbers=("test accuracy",))
    if data:
        echo(f"next: {zoo_command(context)} finetune {shlex.quote(run)} --data {shlex.quote(data)} --freeze backbone")
