"""``zoo export`` and ``zoo serve``: deploy a trained classifier."""

from __future__ import annotations

import re
import shlex
from typing import Annotated

import typer

from zoo.api.trained import load
from zoo.commands.shell import Checkpoint, Json, RunOrFile, echo, open_registry, print_json, whole_number
from zoo.commands.status import status
from zoo.core.errors import UserError


def export(
    context: typer.Context,
    run: RunOrFile,
    to: Annotated[str, typer.Option(metavar="FORMAT", help="Format: safetensors, hub, onnx or torch-export.")],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Output file or, for hub, folder; default RUN with the format's suffix."
        ),
    ] = "",
    checkpoint: Checkpoint = "best",
    license: Annotated[str, typer.Option(metavar="TEXT", help="License for the model card.")] = "",
    json: Json = False,
) -> None:
    """Export a trained classifier, verified against the original, with a model card.

    [bold]zoo export flowers --to onnx[/bold]   for ONNX Runtime; normalization is part of the graph\n
    [bold]zoo export flowers --to torch-export[/bold]   for torch without bestiary\n
    [bold]zoo export flowers --to safetensors[/bold]   for bestiary: zoo predict flowers.safetensors photo.jpg\n
    [bold]zoo export flowers --to hub -o flowers-hub[/bold]   a folder to upload to a model hub
    """
    open_registry(context)
    status.show("exporting and verifying")
    done = load(run, checkpoint=checkpoint).export(to, output, license=license)
    agreement, loads = done.agreement, done.format.loads
    if json:
        checked = {"images": agreement.images, "largest_difference": agreement.difference}
        loading = {"python": done.loading} if done.loading else {}
        print_json({"file": str(done.file), "card": str(done.card), "bytes": done.bytes, **checked, **loading})
        return
    echo(f"{done.file}: {done.bytes / 1e6:.1f} MB, loaded by {loads}")
    if done.loading:
        echo(f"in Python, without bestiary: {done.loading}")
    echo(f"verified on {agreement.images}: {agreement.outputs} differ by at most {agreement.difference:.1g}")
    if done.without:
        echo(f"its own test images are not available: {done.without}")
    if done.format.suffix:
        echo(f"next: read {done.card} for preprocessing and a program that runs it")
    else:
        upload = f"hf upload OWNER/{shlex.quote(done.file.resolve().name)} {shlex.quote(str(done.file))}"
        echo(f"next: read {done.card}, then {upload}")


def serve(
    context: typer.Context,
    run: RunOrFile,
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Address to listen on; 0.0.0.0 accepts other machines.")
    ] = "127.0.0.1",
    port: Annotated[str, typer.Option(metavar="N", help="Port to listen on; 0 picks a free one.")] = "8000",
    max_mb: Annotated[str, typer.Option("--max-mb", metavar="N", help="Maximum size of an upload in megabytes.")] = "20",
    allow_host: Annotated[
        list[str], typer.Option(metavar="NAME", help="Name of this machine in addresses, beside localhost and HOST; repeatable.")
    ] = [],  # noqa: B006
    checkpoint: Checkpoint = "best",
) -> None:
    """Serve a trained classifier over HTTP, with a web page; uploads are not stored. Ctrl-C stops it.

    [bold]zoo serve flowers[/bold]   then open the printed address and drop images on the page\n
    [bold]curl -F images=@photo.jpg http://127.0.0.1:8000/predict[/bold]   predictions as JSON
    """
    for name in allow_host:
        if not re.fullmatch(r"[\w.-]+", name):
            raise UserError(f"--allow-host {name}: must be a name alone, such as photos.example.org")
    number, megabytes = whole_number("--port", port, 0), whole_number("--max-mb", max_mb)
    if number > 65535:
        raise UserError(f"--port {port}: must be at most 65535")
    registry = open_registry(context)
    trained = load(run, checkpoint=checkpoint)
    trained.require_classifier("serve")
    from zoo.serve import server

    def on_ready(address: str) -> None:
        echo(f"{trained.name} is served at {address}")
        echo(f"try: curl -F images=@photo.jpg {address}predict", "Ctrl-C stops it", flush=True)

    limits = server.Limits(bytes=megabytes * 10**6)
    server.serve(registry, trained.file, trained.name, trained.metrics, host, number, limits, on_ready, allow_host)
