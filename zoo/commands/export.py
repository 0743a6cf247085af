"""``zoo export`` and ``zoo serve``: a trained classifier for others to use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.commands.shell import (
    Checkpoint,
    Json,
    RunName,
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
    run: RunName,
    to: Annotated[str, typer.Option(help="safetensors, onnx or torch-export.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where to; default RUN with the ending.")] = "",
    checkpoint: Checkpoint = "best",
    license: Annotated[str, typer.Option(metavar="TEXT", help="For the model card: the terms it is given away under.")] = "",
    json: Json = False,
) -> None:
    """Write a trained classifier as one file, checked against the original, with a model card beside it.

    [bold]zoo export flowers --to onnx[/bold]   for ONNX Runtime, pre-processing included: bytes of images in, probabilities out\n
    [bold]zoo export flowers --to torch-export[/bold]   for torch without the zoo\n
    [bold]zoo export flowers --to safetensors[/bold]   for the zoo: zoo predict flowers.safetensors photo.jpg
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
    print(f"checked on {agreement.images}, alone and together: probabilities differ by at most {agreement.difference:.1g}")
    if done.without:
        print(f"not on its own test images: {done.without}")
    print(f"next: {done.card} says what it is, how to prepare an image, and how to run it")


def serve(
    context: typer.Context,
    run: RunName,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[str, typer.Option(metavar="N", help="The port to listen on; 0 takes any that is free.")] = "8000",
    max_mb: Annotated[str, typer.Option("--max-mb", metavar="N", help="Megabytes that one upload may have.")] = "20",
    checkpoint: Checkpoint = "best",
) -> None:
    """Let others ask a trained classifier, on a web page and over HTTP; nothing that is sent is kept. Ctrl-C ends it.

    [bold]zoo serve flowers[/bold]   then open the address it prints, and drop pictures on the page\n
    [bold]curl -F images=@photo.jpg http://127.0.0.1:8000/predict[/bold]   the same as JSON
    """
    number, megabytes = whole_number("--port", port, 0), whole_number("--max-mb", max_mb)
    if number > 65535:
        raise UserError(f"--port {port}: must be at most 65535")
    registry = open_registry(context)
    file, metrics, name = _classifier_file(registry, run, checkpoint, "zoo serve")
    from zoo.serve import server

    def told(address: str) -> None:
        print(f"{name} is served at {address}\ntry: curl -F images=@photo.jpg {address}predict\nCtrl-C ends it", flush=True)

    server.serve(registry, file, name, metrics, host, number, server.Limits(bytes=megabytes * 10**6), told)


def _classifier_file(registry: Registry, run: str, checkpoint: str, command: str) -> tuple[Path, dict[str, float], str]:
    """The file with the weights of a classifier, the test metrics of its run, and a name for it; known without torch.

    Raises:
        UserError: the model is for another task.
    """
    from zoo.training.records import test_metrics
    from zoo.training.run_folder import RunFolder

    file, trained = checkpoint_file(run, checkpoint)
    model = registry.model(trained.model["name"])
    if model.task != "classification":
        raise UserError(f"{run} is a {model.name}, for {model.task}: {command} is for networks that sort images into classes")
    if file == Path(run):
        return file, {}, file.stem
    folder = RunFolder.find(run)
    metrics = test_metrics(folder.metrics_file) if checkpoint == "best" else {}  # which the best checkpoint was tested for
    return file, metrics, folder.path.resolve().name
