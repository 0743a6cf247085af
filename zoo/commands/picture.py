"""``zoo picture``: pictures of weights, predictions, attention, learning curves and more, as PNG files."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.commands.shell import Json, SetModelAndData, echo, open_registry, print_json, print_table


def picture(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="Kind of picture; omit it to list the kinds.")] = "",
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Runs by name or path; for attention, saliency and gradcam, then image files."),
    ] = [],  # noqa: B006
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Output file; default RUN-KIND.png.")] = "",
    metric: Annotated[str, typer.Option(metavar="NAMES", help="curves: metrics to plot, as in train/loss,val/loss.")] = "",
    data: Annotated[
        str, typer.Option(metavar="DATA", help="Data set, instead of the run's; for regions, a toy data set instead of runs.")
    ] = "",
    settings: SetModelAndData = [],  # noqa: B006
    checkpoint: Annotated[str, typer.Option(metavar="WHICH", help="Checkpoint to load: best (the default) or last.")] = "",
    layer: Annotated[str, typer.Option(metavar="N", help="attention: number of the layer, from 1; default the last.")] = "",
    text: Annotated[str, typer.Option(metavar="FILE", help="cells: text file; default the run's test text.")] = "",
    units: Annotated[
        str, typer.Option(metavar="N,N", help="cells: units to draw; default those that correlate best with the text.")
    ] = "",
    class_name: Annotated[
        str, typer.Option("--class", metavar="NAME", help="saliency, gradcam: class; default: predicted.")
    ] = "",
    json: Json = False,
) -> None:
    """Draw weights, predictions, attention maps, learning curves and more, as PNG files.

    [bold]zoo picture[/bold]   list the kinds\n
    [bold]zoo picture templates softmax-digits[/bold]   weights of a linear classifier\n
    [bold]zoo picture curves first second --metric train/error,val/error[/bold]   learning curves of two runs\n
    [bold]zoo picture saliency resnet20-folder photo.jpg --class cat[/bold]   saliency maps\n
    [bold]zoo picture gradcam resnet20-folder photo.jpg[/bold]   the regions that raise the score of the predicted class\n
    [bold]zoo picture calibration resnet20-digits[/bold]   reliability diagram\n
    [bold]zoo picture attention vit-folder photo.jpg[/bold]   attention maps\n
    [bold]zoo picture captions captioner-shapes-captions[/bold]   best and worst captions\n
    [bold]zoo picture regions --data spirals[/bold]   decision regions of standard classifiers\n
    [bold]zoo picture cells char-lstm-pydoc --text notes.txt[/bold]   text colored by single units\n
    [bold]zoo picture path navigator-rooms[/bold]   trajectories from above\n
    [bold]zoo picture gradient-flow[/bold]   vanilla RNN and LSTM\n
    [bold]zoo picture optimizer-paths[/bold]   SGD, RMSprop, Adam on two surfaces
    """
    from zoo.pictures.kinds import KINDS, write_picture

    if not kind:
        if json:
            print_json([{"name": k.name, "shows": k.shows, "usage": f"zoo picture {k.call}"} for k in KINDS.values()])
            return
        print_table([(k.call, k.shows) for k in KINDS.values()], ("picture", "description"))
        echo("", "next: zoo picture regions --data spirals    zoo picture curves RUN")
        return
    given = {"metric": metric, "data": data, "settings": settings, "checkpoint": checkpoint, "layer": layer}
    given |= {"text": text, "units": units, "class_name": class_name}
    path, drawn = write_picture(open_registry(context), kind, runs, output, **given)
    if json:
        print_json({"file": str(path), "look_for": drawn.look_for, "next": drawn.next})
    else:
        echo(f"{path}: {drawn.look_for}", f"next: {drawn.next}")
