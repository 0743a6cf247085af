"""``zoo export`` and ``zoo serve``: deploy a trained classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.commands.shell import (
    Checkpoint,
    Json,
    RunOrFile,
    announce,
    checkpoint_file,
    open_registry,
    print_json,
    whole_number,
)
from zoo.core.errors import UserError
from zoo.registry.registry import Registry


def export(
    context: typer.Context,
    run: RunOrFile,
    to: Annotated[str, typer.Option(help="Format: safetensors, onnx or torch-export.")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Output file; default RUN with the suffix of the format.")
    ] = "",
    checkpoint: Checkpoint = "best",
    license: Annotated[str, typer.Option(metavar="TEXT", help="License for the model card.")] = "",
    json: Json = False,
) -> None:
    """Export a trained classifier to a single file, verified against the original, with a model card.

    [bold]zoo export flowers --to onnx[/bold]   for ONNX Runtime; normalization is part of the graph\n
    [bold]zoo export flowers --to torch-export[/bold]   for torch without bestiary\n
    [bold]zoo export flowers --to safetensors[/bold]   for bestiary: zoo predict flowers.safetensors photo.jpg
    """
    from zoo.export.formats import find_format, output_file

    format = find_format(to)
    registry = open_registry(context)
    file, metrics, name = _classifier_file(registry, run, checkpoint, "zoo export")
    path = output_file(format, output, name)
    from zoo.export import export as exporting

    announce("exporting and verifying")
    done = exporting.export(registry, file, format, path, name, metrics, license or "not stated")
    agreement = done.agreement
    if json:
        checked = {"images": agreement.images, "largest_difference": agreement.difference}
        print_json({"file": str(done.file), "card": str(done.card), "bytes": done.bytes, **checked})
        return
    print(f"{done.file}: {done.bytes / 1e6:.1f} MB, loaded by {format.loads}")
    print(f"verified on {agreement.images}: probabilities differ by at most {agreement.difference:.1g}")
    if done.without:
        print(f"its own test images are not available: {done.without}")
    print(f"next: read {done.card} for preprocessing and a program that runs it")


def serve(
    context: typer.Context,
    run: RunOrFile,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 accepts other machines.")] = "127.0.0.1",
    port: Annotated[str, typer.Option(metavar="N", help="Port to listen on; 0 picks a free one.")] = "8000",
    max_mb: Annotated[str, typer.Option("--max-mb", metavar="N", help="Maximum size of an upload in megabytes.")] = "20",
    checkpoint: Checkpoint = "best",
) -> None:
    """Serve a trained classifier over HTTP, with a web page; uploads are not stored. Ctrl-C stops it.

    [bold]zoo serve flowers[/bold]   then open the printed address and drop images on the page\n
    [bold]curl -F images=@photo.jpg http://127.0.0.1:8000/predict[/bold]   predictions as JSON
    """
    number, megabytes = whole_number("--port", port, 0), whole_number("--max-mb", max_mb)
    if number > 65535:
        raise UserError(f"--port {port}: must be at most 65535")
    registry = open_registry(context)
    file, metrics, name = _classifier_file(registry, run, checkpoint, "zoo serve")
    from zoo.serve import server

    def on_ready(address: str) -> None:
        print(f"{name} is served at {address}\ntry: curl -F images=@photo.jpg {address}predict\nCtrl-C stops it", flush=True)

    server.serve(registry, file, name, metrics, host, number, server.Limits(bytes=megabytes * 10**6), on_ready)


def _classifier_file(registry: Registry, run: str, checkpoint: str, command: str) -> tuple[Path, dict[str, float], str]:
    """The file with the weights of a classifier, its test metrics and its name, without importing torch.

    Raises:
        UserError: the model is for another task.
    """
    from zoo.training.run_folder import RunFolder

    file, trained = checkpoint_file(run, checkpoint)
    model = registry.model(trained.model["name"])
    if model.task != "classification":
        raise UserError(f"{command} is for classification, and {run} ({model.name}) is for {model.task}")
    if file == Path(run):
        return file, {}, file.stem
    folder = RunFolder.find(run)
    metrics = folder.test_metrics() if checkpoint == "best" else {}  # only the best checkpoint was tested
    return file, metrics, folder.path.resolve().name
