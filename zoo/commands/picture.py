"""``zoo picture``: what a network has learned, as a PNG."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.commands.shell import Json, SetModelAndData, open_registry, print_json, print_table


def picture(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="What to draw; without it, the kinds are listed.")] = "",
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs, by name or path; for attention and saliency, then image files.")
    ] = [],  # noqa: B006
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="The PNG; default RUN-KIND.png.")] = "",
    metric: Annotated[str, typer.Option(metavar="NAMES", help="curves: what to draw, as in train/loss,val/loss.")] = "",
    data: Annotated[str, typer.Option(help="Other data than the run's own; for regions, toy data without a run.")] = "",
    settings: SetModelAndData = [],  # noqa: B006
    checkpoint: Annotated[str, typer.Option(help="best (the default) or last.")] = "",
    layer: Annotated[str, typer.Option(metavar="N", help="attention: of which layer, from 1; the default is the last.")] = "",
    text: Annotated[str, typer.Option(metavar="FILE", help="cells: the text; the default is the run's own test text.")] = "",
    units: Annotated[str, typer.Option(metavar="N,N", help="cells: which; the default is those that follow the text best.")] = "",
    class_name: Annotated[str, typer.Option("--class", help="saliency: of which class; the default is the likeliest.")] = "",
    json: Json = False,
) -> None:
    """Draw what a network has learned, into a PNG.

    [bold]zoo picture[/bold]   lists what can be drawn\n
    [bold]zoo picture templates softmax-digits[/bold]   the weights of a linear classifier, as images\n
    [bold]zoo picture curves first second --metric train/error,val/error[/bold]   two runs in one picture\n
    [bold]zoo picture saliency resnet20-folder photo.jpg --class cat[/bold]   which pixels speak for or against it\n
    [bold]zoo picture calibration resnet20-digits[/bold]   whether it is as often right as it is sure\n
    [bold]zoo picture attention vit-folder photo.jpg[/bold]   where a transformer looks, or a captioner for each word\n
    [bold]zoo picture captions captioner-shapes-captions[/bold]   its best and its worst captions\n
    [bold]zoo picture regions --data spirals[/bold]   nearest neighbors, a linear classifier and a perceptron, compared\n
    [bold]zoo picture cells char-lstm-pydoc --text notes.txt[/bold]   a text colored by the cells that follow it\n
    [bold]zoo picture path navigator-rooms[/bold]   where an agent goes when it is told where to\n
    [bold]zoo picture gradient-flow[/bold]   gradients through time, in a vanilla recurrent network and in an LSTM
    """
    from zoo.pictures.kinds import KINDS, write_picture

    if not kind:
        if json:
            print_json([{"name": k.name, "shows": k.shows, "usage": f"zoo picture {k.call}"} for k in KINDS.values()])
            return
        print_table([(k.call, k.shows) for k in KINDS.values()], ("picture", "what it shows"))
        print("\nnext: zoo picture regions --data spirals    zoo picture curves RUN")
        return
    given = {"metric": metric, "data": data, "settings": settings, "checkpoint": checkpoint, "layer": layer}
    given |= {"text": text, "units": units, "class_name": class_name}
    drawn = write_picture(open_registry(context), kind, runs, output, **given)
    if json:
        print_json({"file": str(drawn.path), "look_for": drawn.look_for, "next": drawn.next})
    else:
        print(f"{drawn.path}: {drawn.look_for}\nnext: {drawn.next}")
