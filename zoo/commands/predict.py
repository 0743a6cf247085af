"""``zoo predict``, ``zoo sample`` and ``zoo chat``: inference with trained networks."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from zoo.api.trained import load
from zoo.commands.predictions import answer_format, print_answers, write_answers
from zoo.commands.shell import (
    AverageViews,
    Checkpoint,
    Json,
    PublishedWeights,
    RunOrFile,
    RunOrNetwork,
    SetPublished,
    decimal_number,
    echo,
    open_registry,
    print_json,
    whole_number,
    zoo_command,
)
from zoo.core.errors import UserError
from zoo.core.printing import LAYOUT, json_text, printable
from zoo.core.ranks import rank_zero_print


def predict(
    context: typer.Context,
    run: RunOrNetwork,
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Images or folders of images.")],
    top: Annotated[str | None, typer.Option(metavar="N", help="Number of classes or answers for each image; default 3.")] = None,
    question: Annotated[str | None, typer.Option(metavar="TEXT", help="Question to answer about each image.")] = None,
    beams: Annotated[str | None, typer.Option(metavar="N", help="Captioning: beam width.")] = None,
    samples: Annotated[str | None, typer.Option(metavar="N", help="Captioning: sample N captions for each image.")] = None,
    temperature: Annotated[
        str | None, typer.Option(metavar="T", help="Sampling temperature; below 1 favors likely words.")
    ] = None,
    seed: Annotated[str | None, typer.Option(metavar="N", help="Random seed of sampling.")] = None,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Write to FILE.csv or FILE.json.")] = "",
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one line per image, as results come in.")] = False,
    weights: PublishedWeights = "",
    settings: SetPublished = [],  # noqa: B006
    checkpoint: Checkpoint = "best",
    tta: AverageViews = False,
    json: Json = False,
) -> None:
    """Classify, caption or answer questions about images.

    A file that is not an image is reported on standard error and skipped; if it was given by name, the exit code is 2.

    [bold]zoo predict flowers photo.jpg holiday/ --top 5[/bold]   the five most probable classes\n
    [bold]zoo predict flowers.safetensors holiday/ -o holiday.csv[/bold]   with an exported file; one line per image\n
    [bold]zoo predict efficientnet-lite0 photo.jpg[/bold]   the classes of ImageNet, with published weights\n
    [bold]zoo predict captioner-shapes-captions photo.jpg --beams 3[/bold]   a caption\n
    [bold]zoo predict captioner-shapes-captions photo.jpg --samples 5 --temperature 0.7[/bold]   five sampled captions\n
    [bold]zoo predict vqa-relation-sort-of-clevr photo.png --question "how many objects have the shape of the red object"[/bold]
    """
    numbers = {"--top": (top, 1), "--beams": (beams, 1), "--samples": (samples, 1), "--seed": (seed, 0)}
    options = {name[2:]: whole_number(name, text, least) for name, (text, least) in numbers.items() if text is not None}
    if question is not None:
        options["question"] = question
    if temperature is not None:
        options["temperature"] = decimal_number("--temperature", temperature)
    written_as = answer_format(json, csv, output)
    open_registry(context)
    trained = load(run, checkpoint=checkpoint, weights=weights, settings=settings, tta=tta)
    comes_at_once = not output and written_as != "table" and sys.stdout.isatty()  # then the results are the progress
    predictions = trained.stream(inputs, progress=not comes_at_once, **options)
    if output:
        echo(f"{output}: {write_answers(predictions, written_as, Path(output)):,} predictions")
    else:
        print_answers(predictions, written_as)
    if (output or written_as == "table") and not trained.is_published and (explain := trained.model.explain_command):
        echo(f"next: {zoo_command(context)} {explain.format(run=shlex.quote(run))}")


def sample(
    context: typer.Context,
    run: RunOrFile,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="Text to continue; the default is a line break.")] = "",
    length: Annotated[str, typer.Option(metavar="N", help="Number of characters to generate.")] = "500",
    temperature: Annotated[str, typer.Option(metavar="T", help="Sampling temperature; below 1 favors likely characters.")] = "1",
    top_k: Annotated[
        str, typer.Option("--top-k", metavar="K", help="Sample from the K most probable characters; 0 for all.")
    ] = "0",
    top_p: Annotated[
        str, typer.Option("--top-p", metavar="P", help="Nucleus sampling: the smallest set of characters with probability P.")
    ] = "1",
    seed: Annotated[str, typer.Option(metavar="N", help="Random seed of sampling.")] = "0",
    samples: Annotated[str, typer.Option(metavar="N", help="Number of texts to generate.")] = "1",
    greedy: Annotated[bool, typer.Option("--greedy", help="Greedy decoding: always the most probable character.")] = False,
    beams: Annotated[str, typer.Option(metavar="N", help="Beam search with this beam width.")] = "0",
    checkpoint: Checkpoint = "best",
    json: Json = False,
) -> None:
    """Generate text with a language model.

    [bold]zoo sample char-lstm-pydoc --prompt 'The for statement' --length 300[/bold]\n
    [bold]zoo sample char-lstm-pydoc --temperature 0.7 --top-k 10 --samples 3 --seed 7[/bold]\n
    [bold]zoo sample char-lstm-pydoc --prompt 'class ' --beams 5 --length 40[/bold]
    """
    count, several, width = (
        whole_number("--length", length),
        whole_number("--samples", samples),
        whole_number("--beams", beams, 0),
    )
    if sum((greedy, width > 0, several > 1)) > 1:
        raise UserError("--greedy, --beams and several --samples are mutually exclusive")
    of_drawing = {"--temperature": temperature != "1", "--top-k": top_k != "0", "--top-p": top_p != "1", "--seed": seed != "0"}
    if (greedy or width) and (given := [name for name, is_given in of_drawing.items() if is_given]):
        raise UserError(f"{'--greedy' if greedy else '--beams'} does not sample: omit {' and '.join(given)}")
    open_registry(context)
    trained = load(run, checkpoint=checkpoint)
    settings = {
        "temperature": decimal_number("--temperature", temperature),
        "top_k": whole_number("--top-k", top_k, 0),
        "top_p": decimal_number("--top-p", top_p),
        "seed": whole_number("--seed", seed, 0) % 2**63,
        "greedy": greedy,
    }
    if several == 1 and not json and not width:
        _stream(prompt, trained.stream_text(prompt, count, **settings))
        return
    texts = trained.sample(prompt, count, samples=several, beams=width, **settings)
    if json:
        print_json([{"prompt": prompt, "text": text} for text in texts])
        return
    for number, text in enumerate(texts, 1):
        echo(*([""] if number > 1 else []), f"--- {number}")
        print(printable(prompt + text, kept=LAYOUT))


def _stream(prompt: str, stream: Iterator[list[str]]) -> None:
    """Print characters as they come."""
    for text in chain([prompt], (characters[0] for characters in stream)):
        print(printable(text, kept=LAYOUT), end="", flush=True)
    echo("")


def chat(
    context: typer.Context,
    run: RunOrFile,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Image file.")],
    caption: Annotated[str, typer.Option(metavar="TEXT", help="Caption of the image, as context.")] = "",
    checkpoint: Checkpoint = "best",
    json: Json = False,
) -> None:
    """Hold a dialogue about an image: one question per line, answered in the context of the previous ones; quit or Ctrl-D ends.

    [bold]zoo chat dialogue-generative-shapes-dialogues photo.png --caption 'there is a small circle'[/bold]\n
    [bold]printf 'what color is it\\nand its size\\n' | zoo chat RUN photo.png[/bold]   from a file or another program
    """
    open_registry(context)
    talk = load(run, checkpoint=checkpoint).chat(image, caption)
    from zoo.training.conversation import Unanswered

    for question in _lines():
        if question.strip().lower() == "quit":
            break
        try:
            reply = {"answer": talk.ask(question)}
        except Unanswered as reason:
            reply = {"unanswered": str(reason)}
        record = {"question": question.strip(), **reply}
        echo(json_text(record) if json else next(iter(reply.values())), flush=True)


def _lines() -> Iterator[str]:
    """Yield lines from a prompt on a terminal, or from a pipe."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    rank_zero_print("ask about the image; quit or Ctrl-D ends")
    while True:
        try:
            yield input("> ")
        except EOFError:
            echo("")
            return
