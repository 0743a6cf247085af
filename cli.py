"""The ``zoo`` command: each function parses, calls one thing and prints.

Only Typer is imported here; torch comes in when something is built, so that names are answered at once.
"""

from __future__ import annotations

import json as json_module
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from zoo.errors import UserError, one_line, unknown
from zoo.ranks import is_follower
from zoo.registry import REQUIRED, Entry, Registry, scan

if TYPE_CHECKING:
    from zoo.recipe import Run

# the base of Typer's own usage errors; Typer has carried its parser inside since 0.20 and took it from click before
UsageError = typer.BadParameter.__mro__[1]


class TextParameters:
    """Parameters that are text and flags, as all are here.

    Typer sends every parameter through pydantic, whose import takes longer than all the rest of answering a name. Text needs no
    conversion; numbers are checked with the recipe, where their bounds are known.
    """

    def get_params(self, context: Any) -> list[Any]:
        parameters = super().get_params(context)
        for parameter in parameters:
            if "process_value" not in vars(parameter):
                parameter.process_value = partial(_process_text, parameter, parameter.process_value)
        return parameters


def _process_text(parameter: Any, convert: Callable, context: Any, value: Any) -> Any:
    several = parameter.multiple or parameter.nargs == -1
    if parameter.required and (value is None or (several and not value)):
        return convert(context, value)  # which complains
    value = () if value is None and several else value
    return parameter.callback(context, parameter, value) if parameter.callback else value


class TextCommand(TextParameters, TyperCommand):
    """A command of text and flags."""


class OneLineErrors(TextParameters, TyperGroup):
    """A group whose errors are one line on standard error: 2 for the user's mistakes, 130 when interrupted."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        extra.setdefault("prog_name", "zoo")
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **extra)
        try:
            sys.exit(super().main(*args, standalone_mode=False, **extra) or 0)
        except UserError as error:
            _fail(str(error))
        except UsageError as error:
            if not error.format_message():  # the help was asked for by giving nothing
                sys.exit(2)
            _fail(f"{error.format_message()} (see: {_command_path(error)} --help)")
        except (KeyboardInterrupt, typer.Abort):
            print("interrupted", file=sys.stderr)
            sys.exit(130)
        except OSError as error:
            import errno

            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            _fail(f"{error.filename or 'output'}: {error.strerror.lower()}")


def _fail(text: str) -> None:
    if not is_follower():
        print("error:", one_line(text), file=sys.stderr)
    sys.exit(2)


def _command_path(error: Any) -> str:
    return error.ctx.command_path if getattr(error, "ctx", None) else "zoo"


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A zoo of classic networks: list them, train them on your data, and see what they learned.\n\n"
    "[bold]zoo list[/bold] shows what there is; [bold]zoo train resnet20[/bold] trains one, without any network access.",
)
data_app = typer.Typer(cls=OneLineErrors, no_args_is_help=True, help="Data sets: list, show, fetch and look at them.")
app.add_typer(data_app, name="data")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Set = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, as in recipe.lr=0.1, model.depth=32, data.augment=none."),
]
SetData = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="A setting of the data, as in data.size=32.")]
SetModelAndData = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="A setting of model or data, as in model.depth=32, data.size=64.")
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A name under runs/, or the path of a run's folder.")]
Checkpoint = Annotated[str, typer.Option(help="best or last.")]


@app.callback()
def main(
    context: typer.Context,
    plugin: Annotated[list[str], typer.Option(metavar="FILE", help="A Python file that registers models or data.")] = [],  # noqa: B006
) -> None:
    context.obj = plugin


def _registry(context: typer.Context) -> Registry:
    registry = scan(context.obj or ())
    for warning in registry.warnings if not is_follower() else ():
        print("warning:", warning, file=sys.stderr)
    return registry


def _number(option: str, text: str, least: int = 1) -> int:
    """A whole number that an option was given."""
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{option} {text}: must be a number from {least}")
    return int(text)


def _decimal(option: str, text: str) -> float:
    """A number that an option was given."""
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{option} {text}: must be a number") from None


def _zoo(context: typer.Context) -> str:
    """The command that starts any other, with the plugins that were given."""
    return " ".join(["zoo", *(f"--plugin {shlex.quote(file)}" for file in context.obj or ())])


def _print_json(value: Any) -> None:
    print(json_module.dumps(value, indent=2, ensure_ascii=False))


def _print_table(rows: list[tuple[str, ...]], header: tuple[str, ...], numbers: tuple[str, ...] = ()) -> None:
    """Aligned columns, those of ``numbers`` to the right; a line is cut to the width of a terminal, and whole in a pipe."""
    import shutil

    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    aligns = [str.rjust if title in numbers else str.ljust for title in header]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10**6
    for row in (header, *rows):
        line = "  ".join(align(cell, w) for align, cell, w in zip(aligns, row, widths, strict=True)).rstrip()
        print(line if len(line) <= width else line[: width - 1] + "…")


def _list(entries: dict[str, Entry], pattern: str, task: str, json: bool, next_command: str) -> None:
    from fnmatch import fnmatch

    def matches(entry: Entry) -> bool:
        names = (entry.name, *entry.tags)
        wanted = any(fnmatch(name, pattern) or pattern in name for name in names) if pattern else True
        return wanted and task in ("", entry.task)

    found = sorted(filter(matches, entries.values()), key=lambda entry: _natural(entry.name))
    if json:
        _print_json([entry.to_dict() for entry in found])
    elif not found:
        raise UserError(f"nothing matches {' '.join(filter(None, (pattern, task and f'--task {task}')))!r}")
    else:
        rows = [(entry.name, entry.task, entry.summary.partition(":")[0].rstrip("."), entry.origin) for entry in found]
        foreign = any(not entry.origin.startswith("bestiary ") for entry in found)
        header = ("name", "task", "what it is", "from")
        _print_table(rows if foreign else [row[:3] for row in rows], header if foreign else header[:3])
        print(f"\nnext: {next_command}")


def _natural(name: str) -> list[Any]:
    """resnet20 before resnet110."""
    import re

    return [(part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", name)]


@app.command("list", cls=TextCommand)
def list_models(
    context: typer.Context,
    pattern: Annotated[str, typer.Argument(help="Part of a name or tag, or a pattern as in 'resnet*'.")] = "",
    task: Annotated[str, typer.Option(help="Only models for this kind of work, as in classification.")] = "",
    json: Json = False,
) -> None:
    """List the models: [bold]zoo list[/bold], [bold]zoo list residual[/bold], [bold]zoo list 'vgg*'[/bold]."""
    _list(_registry(context).models, pattern, task, json, "zoo show NAME    zoo train NAME")


@app.command(cls=TextCommand)
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A model, as in resnet20.")],
    layers: Annotated[bool, typer.Option("--layers", help="A table of the layers for one input.")] = False,
    data: Annotated[str, typer.Option(help="With --layers: the data set whose samples are the input.")] = "",
    image: Annotated[str, typer.Option("--input", metavar="CxHxW", help="With --layers: the size of an image.")] = "",
    settings: SetModelAndData = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Describe a model: what it is, its options, its recipe, and the data it can take.

    [bold]zoo show resnet20[/bold]\n
    [bold]zoo show vgg16-imagenet --layers --input 3x224x224[/bold]   shapes, parameters, multiply-adds, receptive fields\n
    [bold]zoo show resnet20 --layers --data cifar10 --set model.width=32[/bold]
    """
    registry = _registry(context)
    entry = registry.model(name)
    if data:
        registry.data_set(data)
    if layers:
        _show_layers(registry, name, data, image, settings, json)
        return
    if data or image or settings:
        raise UserError("--data, --input and --set go with --layers")
    if json:
        _print_json(entry.to_dict())
        return
    _print_entry(entry, "model")
    print("\nrecipe (--set recipe.KEY=VALUE)")
    for key, value in entry.recipe.items():
        print(f"  {key} = {value}")
    default = " ".join([entry.data, *(f"{key}={value}" for key, value in entry.data_options.items())])
    print(f"\ndata    {', '.join(registry.data_for(entry.task, entry.tags))}   (default: {default})")
    print(f"next    zoo train {entry.name}    zoo show {entry.name} --layers")


def _show_layers(registry: Registry, name: str, data: str, image: str, settings: list[str], json: bool) -> None:
    from zoo.recipe import parse_setting, resolve
    from zoo.spec import parse_image_shape

    chosen = [{"data": {"name": data}}] if data else []
    run = resolve(registry, name, {}, [*(parse_setting(text, ("model", "data")) for text in settings), *chosen])
    shape = parse_image_shape(image) if image else None
    from zoo.layer_table import tabulate

    table = tabulate(registry, run, shape)
    if json:
        _print_json({"model": name, **table.to_dict()})
        return
    numbers = ("output", "parameters", "multiply-adds", "stride", "field")
    header = ("layer", "kind", *(numbers if table.has_positions else numbers[:3]))
    rows = [row.to_text()[: len(header)] for row in table.layers]
    _print_table([*rows, table.total_text()[: len(header)]], header, numbers)
    taken = f"an image of {'x'.join(map(str, table.input))}" if table.input else f"a sample of {run.data['name']}"
    given = " ".join([name, *(["--data", data] if data else []), *(f"--set {shlex.quote(text)}" for text in settings)])
    check = f"    zoo check {name} --gradients" if table.parameters else ""
    print(f"\n{name} for {taken}. next: zoo train {given}{check}")


def _print_entry(entry: Entry, section: str) -> None:
    print(f"{entry.name}   {entry.summary}")
    where = f"   https://arxiv.org/abs/{entry.paper}" if entry.paper else ""
    print(f"{entry.task}, from {entry.origin}   {' '.join(f'#{tag}' for tag in entry.tags)}{where}")
    if entry.options:
        print(f"\noptions (--set {section}.KEY=VALUE)")
    for option in entry.options:
        default = "must be given" if option.default == REQUIRED else f"= {option.default}"
        values = option.type.removeprefix("Literal[").removesuffix("]").replace("'", "")
        print(f"  {option.name} {default}   ({values if option.type.startswith('Literal[') else option.type}) {option.help}")


@app.command(cls=TextCommand)
def train(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A model, as in resnet20; left out with --resume or --config.")] = "",
    data: Annotated[str, typer.Option(help="A data set; the default is the model's own, which needs no network.")] = "",
    epochs: Annotated[str | None, typer.Option(metavar="N", help="Passes over the training data.")] = None,
    devices: Annotated[str | None, typer.Option(metavar="N", help="How many devices, or 'auto'.")] = None,
    nodes: Annotated[str | None, typer.Option(metavar="N", help="How many machines.")] = None,
    strategy: Annotated[str | None, typer.Option(help="Lightning's: ddp, fsdp, ...")] = None,
    accelerator: Annotated[str | None, typer.Option(help="Lightning's: cpu, gpu, mps, ...")] = None,
    precision: Annotated[str | None, typer.Option(help="32, bf16, 16 or 64.")] = None,
    run_name: Annotated[str | None, typer.Option("--name", help="Name of the run's folder under runs/.")] = None,
    config: Annotated[str | None, typer.Option(metavar="FILE", help="Settings in YAML, as a run's run.yaml.")] = None,
    settings: Set = [],  # noqa: B006
    wandb: Annotated[str | None, typer.Option(help="Weights & Biases: online or offline.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with a run exactly where it was saved.")] = None,
    json: Json = False,
) -> None:
    """Train a model, keep the best checkpoint, and test it.

    [bold]zoo train resnet20[/bold]   on digits, in under a minute\n
    [bold]zoo train resnet20 --data folder --set data.root=photos[/bold]   on your pictures, one folder a class\n
    [bold]zoo train mlp --epochs 5 --set model.hidden=[256,128] --set recipe.lr=3e-4[/bold]\n
    [bold]zoo train --resume resnet20-digits[/bold]   after an interruption
    """
    registry = _registry(context)
    # names first: they are answered before anything heavier is imported
    if name:
        registry.model(name)
    if data:
        registry.data_set(data)
    from zoo.recipe import differences, parse_setting, read_config, resolve

    flags = {
        "data": {"name": data or None},
        "recipe": {"epochs": epochs, "precision": precision},
        "trainer": {"devices": devices, "nodes": nodes, "strategy": strategy, "accelerator": accelerator},
        "wandb": {"mode": wandb},
    }
    flags = {key: {k: v for k, v in section.items() if v is not None} for key, section in flags.items()}
    layers = [*map(parse_setting, settings), {key: section for key, section in flags.items() if section}]
    folder = None
    if resume is None:
        run = resolve(registry, name or None, read_config(config) if config else {}, layers)
    else:
        from zoo.training.run_folder import RunFolder

        if config or run_name:
            raise UserError(f"--resume goes on with a run as it is: leave out {'--config' if config else '--name'}")
        folder = RunFolder.find(resume)
        former = folder.read_run()
        run = resolve(registry, name or None, former.model_dump(mode="json"), layers)
        changed = [text for text in differences(former, run) if not text.startswith(CHANGEABLE_ON_RESUME)]
        if changed:
            instead = f"zoo train --config {shlex.quote(str(folder.run_file))} --set {changed[0].partition(' ')[0]} --name NEW"
            raise UserError(f"--resume goes on with a run as it is, and here {changed[0]}: for a new run, {instead}")
    _train(registry, run, run_name, folder, json, _zoo(context))


# they say where a run computes and who watches, not what it computes
CHANGEABLE_ON_RESUME = ("trainer.accelerator=", "trainer.strategy=", "wandb.")


def _train(registry: Registry, run: Run, run_name: str | None, resume: Any, json: bool, again: str) -> None:
    """Train and tell how to go on; ``again`` is the command with the plugins that were given."""
    from zoo.training import engine
    from zoo.training.checkpoints import Interrupted

    try:
        outcome = engine.train(registry, run, run_name, resume)
    except Interrupted as stopped:
        if not is_follower():
            print(f"interrupted, and saved. To go on: {again} train --resume {stopped}", file=sys.stderr)
        sys.exit(130)
    if not outcome.is_rank_zero:
        return
    if json:
        _print_json({"run": str(outcome.folder.path), **outcome.test})
        return
    name = outcome.folder.name
    if outcome.was_finished:
        print(f"{name} was finished: there was nothing left to train")
    print(f"{run.model['name']} on {run.data['name']}: {_metrics_line(outcome.test)}")
    print(f"{outcome.folder.path}/   run.yaml  metrics.jsonl  checkpoints/best.ckpt  checkpoints/last.ckpt")
    data = registry.data_set(run.data["name"])
    ask = f"picture regions {name}" if "points" in data.tags else f"predict {name} IMAGE..."
    others = {
        "language-modelling": f"sample {name}",
        "sequence-memory": f"data preview {data.name}",
        "question-answering": f"predict {name} IMAGE... --question TEXT",
        "dialogue": f"chat {name} IMAGE",
        "navigation": f"picture path {name}",
    }
    ask = others.get(data.task, ask)
    several_epochs = run.recipe.epochs > 1 or data.task != "classification"
    look = f"picture curves {name}" if several_epochs else f"picture confusion {name}"
    look = f"picture captions {name}" if data.task == "captioning" else look
    print(f"next: {again} {ask}    {again} test {name}    {again} {look}")


def _metrics_line(metrics: dict[str, float]) -> str:
    def text(name: str, value: float) -> str:
        return f"{value:,.0f}" if name.endswith("/characters") else f"{value:.4f}"

    return "  ".join(f"{name} {text(name, value)}" for name, value in metrics.items())


@app.command(cls=TextCommand)
def test(
    context: typer.Context,
    run: RunName,
    data: Annotated[str, typer.Option(help="Another data set with the same classes.")] = "",
    devices: Annotated[str | None, typer.Option(metavar="N", help="How many devices; the figures do not depend on it.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="Lightning's: cpu, gpu, mps, ...")] = None,
    settings: SetData = [],  # noqa: B006
    checkpoint: Checkpoint = "best",
    json: Json = False,
) -> None:
    """Test a trained model on its test images: [bold]zoo test resnet20-digits --json[/bold]."""
    from zoo.recipe import parse_setting, resolve_test

    flags = {"trainer": {k: v for k, v in {"devices": devices, "accelerator": accelerator}.items() if v is not None}}
    layers = [*(parse_setting(text, ("data", "trainer")) for text in settings), flags]
    registry = _registry(context)
    file, former = _checkpoint_file(run, checkpoint)
    data_section, trainer_settings = resolve_test(registry, former, data or None, layers)
    from zoo.training import engine

    metrics, is_rank_zero = engine.test(registry, file, data_section, trainer_settings)
    if not is_rank_zero:
        return
    if json:
        _print_json(metrics)
    else:
        print(f"{former.model['name']} on {data_section['name']}: {_metrics_line(metrics)}")


def _checkpoint_file(run: str, checkpoint: str) -> tuple[Path, Run]:
    from zoo.training.run_folder import RunFolder

    folder = RunFolder.find(run)
    return folder.checkpoint(checkpoint), folder.read_run()


@app.command(cls=TextCommand)
def predict(
    context: typer.Context,
    run: RunName,
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Images, or folders of images.")],
    top: Annotated[str | None, typer.Option(metavar="N", help="Classes or answers to name for each image; default 3.")] = None,
    question: Annotated[str | None, typer.Option(help="What is asked about each image.")] = None,
    beams: Annotated[str | None, typer.Option(metavar="N", help="Captions: keep the N likeliest while writing.")] = None,
    samples: Annotated[str | None, typer.Option(metavar="N", help="Captions: draw N for each image.")] = None,
    temperature: Annotated[str | None, typer.Option(metavar="T", help="Of samples: below 1 the likely becomes likelier.")] = None,
    seed: Annotated[str | None, typer.Option(metavar="N", help="Of samples: the same seed draws the same.")] = None,
    checkpoint: Checkpoint = "best",
    json: Json = False,
) -> None:
    """Say what is in pictures.

    [bold]zoo predict flowers photo.jpg holiday/ --top 5[/bold]   the likeliest classes\n
    [bold]zoo predict captioner-shapes-captions photo.jpg --beams 3[/bold]   a caption\n
    [bold]zoo predict captioner-shapes-captions photo.jpg --samples 5 --temperature 0.7[/bold]   several, drawn at random\n
    [bold]zoo predict vqa-relation-sort-of-clevr photo.png --question "how many objects have the shape of the red object"[/bold]
    """
    numbers = {"--top": (top, 1), "--beams": (beams, 1), "--samples": (samples, 1), "--seed": (seed, 0)}
    asked = {name[2:]: _number(name, text, least) for name, (text, least) in numbers.items() if text is not None}
    if question is not None:
        asked["question"] = question
    if temperature is not None:
        asked["temperature"] = _decimal("--temperature", temperature)
    registry = _registry(context)
    file, _ = _checkpoint_file(run, checkpoint)
    from zoo.training.prediction import predict_files

    predictions = predict_files(registry, file, inputs, **asked)
    if json:
        _print_json([prediction.to_dict() for prediction in predictions])
        return
    _print_table([prediction.row() for prediction in predictions], predictions[0].header)


@app.command(cls=TextCommand)
def sample(
    context: typer.Context,
    run: RunName,
    prompt: Annotated[str, typer.Option(help="The text to go on from; the default is a new line.")] = "",
    length: Annotated[str, typer.Option(metavar="N", help="Characters to write.")] = "500",
    temperature: Annotated[str, typer.Option(metavar="T", help="Below 1 the likely becomes likelier, above 1 rarer.")] = "1",
    top_k: Annotated[str, typer.Option("--top-k", metavar="K", help="Draw from the K likeliest characters; 0 is all.")] = "0",
    top_p: Annotated[str, typer.Option("--top-p", metavar="P", help="Draw from the likeliest that together have P.")] = "1",
    seed: Annotated[str, typer.Option(metavar="N", help="The same seed writes the same text.")] = "0",
    samples: Annotated[str, typer.Option(metavar="N", help="Texts to write, side by side.")] = "1",
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest character.")] = False,
    beams: Annotated[str, typer.Option(metavar="N", help="Beam search: keep the N likeliest texts.")] = "0",
    checkpoint: Checkpoint = "best",
    json: Json = False,
) -> None:
    """Let a language model write.

    [bold]zoo sample char-lstm-pydoc --prompt 'The for statement' --length 300[/bold]\n
    [bold]zoo sample char-lstm-pydoc --temperature 0.7 --top-k 10 --samples 3 --seed 7[/bold]\n
    [bold]zoo sample char-lstm-pydoc --prompt 'class ' --beams 5 --length 40[/bold]
    """
    count, several, width = _number("--length", length), _number("--samples", samples), _number("--beams", beams, 0)
    if sum((greedy, width > 0, several > 1)) > 1:
        raise UserError("--greedy, --beams and several --samples exclude each other")
    of_drawing = {"--temperature": temperature != "1", "--top-k": top_k != "0", "--top-p": top_p != "1", "--seed": seed != "0"}
    if (greedy or width) and (given := [name for name, is_given in of_drawing.items() if is_given]):
        raise UserError(f"{'--greedy' if greedy else '--beams'} draws nothing at random: leave {' and '.join(given)} out")
    registry = _registry(context)
    file, _ = _checkpoint_file(run, checkpoint)
    from zoo.decoding import Sampling
    from zoo.training.writing import Writer

    sampling = Sampling(_decimal("--temperature", temperature), _number("--top-k", top_k, 0), _decimal("--top-p", top_p))
    writer = Writer(registry, file)
    if width:
        texts = [text for text, _ in writer.beam(prompt, count, width)]
    else:
        drawn = (prompt, count, several, sampling, _number("--seed", seed, 0) % 2**63)
        stream = writer.greedy(prompt, count) if greedy else writer.sample(*drawn)
        if several == 1 and not json:
            _stream(prompt, stream)
            return
        texts = ["".join(characters) for characters in zip(*stream, strict=True)]
    if json:
        _print_json([{"prompt": prompt, "text": text} for text in texts])
        return
    for number, text in enumerate(texts, 1):
        print(f"{'' if number == 1 else chr(10)}--- {number}\n{prompt}{text}")


def _stream(prompt: str, stream: Iterator[list[str]]) -> None:
    """Print characters as they come."""
    print(prompt, end="", flush=True)
    for characters in stream:
        print(characters[0], end="", flush=True)
    print()


@app.command(cls=TextCommand)
def chat(
    context: typer.Context,
    run: RunName,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The picture to talk about.")],
    caption: Annotated[str, typer.Option(help="What is known of the picture before the first question.")] = "",
    checkpoint: Checkpoint = "best",
    json: Json = False,
) -> None:
    """Talk about a picture: a question a line, each understood in the light of those before; quit or Ctrl-D ends.

    [bold]zoo chat dialogue-generative-shapes-dialogues photo.png --caption 'there is a small circle'[/bold]\n
    [bold]printf 'what colour is it\\nand its size\\n' | zoo chat RUN photo.png[/bold]   from a file or another program
    """
    registry = _registry(context)
    file, _ = _checkpoint_file(run, checkpoint)
    from zoo.training.conversation import Conversation, Unanswered

    talk = Conversation(registry, file, Path(image), caption)
    for question in _lines():
        if question.strip().lower() == "quit":
            break
        try:
            said = {"answer": talk.ask(question)}
        except Unanswered as reason:
            said = {"unanswered": str(reason)}
        told = json_module.dumps({"question": question.strip(), **said}, ensure_ascii=False)
        print(told if json else next(iter(said.values())), flush=True)


def _lines() -> Iterator[str]:
    """What is typed, line by line, with a sign that it is awaited; or what comes through a pipe."""
    sys.stdin.reconfigure(errors="replace")
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    print("ask about the picture; quit or Ctrl-D ends", file=sys.stderr)
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return


@app.command(cls=TextCommand)
def picture(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="What to draw; without it, the kinds are listed.")] = "",
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs, by name or path; for attention, then image files.")
    ] = [],  # noqa: B006
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="The PNG; default RUN-KIND.png.")] = "",
    metric: Annotated[str, typer.Option(metavar="NAMES", help="curves: what to draw, as in train/loss,val/loss.")] = "",
    data: Annotated[str, typer.Option(help="Other data than the run's own; for regions, toy data without a run.")] = "",
    settings: SetModelAndData = [],  # noqa: B006
    checkpoint: Annotated[str, typer.Option(help="best (the default) or last.")] = "",
    layer: Annotated[str, typer.Option(metavar="N", help="attention: of which layer, from 1; the default is the last.")] = "",
    text: Annotated[str, typer.Option(metavar="FILE", help="cells: the text; the default is the run's own test text.")] = "",
    units: Annotated[str, typer.Option(metavar="N,N", help="cells: which; the default is those that follow the text best.")] = "",
    json: Json = False,
) -> None:
    """Draw what a network has learned, into a PNG.

    [bold]zoo picture[/bold]   lists what can be drawn\n
    [bold]zoo picture templates softmax-digits[/bold]   the weights of a linear classifier, as images\n
    [bold]zoo picture curves first second --metric train/error,val/error[/bold]   two runs in one picture\n
    [bold]zoo picture attention vit-folder photo.jpg[/bold]   where a transformer looks, or a captioner for each word\n
    [bold]zoo picture captions captioner-shapes-captions[/bold]   its best and its worst captions\n
    [bold]zoo picture regions --data spirals[/bold]   nearest neighbours, a linear classifier and a perceptron, compared\n
    [bold]zoo picture cells char-lstm-pydoc --text notes.txt[/bold]   a text coloured by the cells that follow it\n
    [bold]zoo picture path navigator-rooms[/bold]   where an agent goes when it is told where to\n
    [bold]zoo picture gradient-flow[/bold]   gradients through time, in a vanilla recurrent network and in an LSTM
    """
    from zoo.pictures.kinds import KINDS, write_picture

    if not kind:
        if json:
            _print_json([{"name": k.name, "shows": k.shows, "usage": f"zoo picture {k.call}"} for k in KINDS.values()])
            return
        _print_table([(k.call, k.shows) for k in KINDS.values()], ("picture", "what it shows"))
        print("\nnext: zoo picture regions --data spirals    zoo picture curves RUN")
        return
    given = {"metric": metric, "data": data, "settings": settings, "checkpoint": checkpoint, "layer": layer}
    given |= {"text": text, "units": units}
    drawn = write_picture(_registry(context), kind, runs, output, **given)
    if json:
        _print_json({"file": str(drawn.path), "look_for": drawn.look_for, "next": drawn.next})
    else:
        print(f"{drawn.path}: {drawn.look_for}\nnext: {drawn.next}")


@app.command(cls=TextCommand)
def search(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A model, as in mlp.")],
    over: Annotated[
        list[str],
        typer.Option(metavar="KEY=RANGE", help="log:LOW..HIGH, uniform:LOW..HIGH or choice:A,B; for a grid, LOW..HIGH:POINTS."),
    ] = [],  # noqa: B006
    data: Annotated[str, typer.Option(help="A data set; the default is the model's own, which needs no network.")] = "",
    epochs: Annotated[str | None, typer.Option(metavar="N", help="Passes over the training data, in each trial.")] = None,
    settings: Set = [],  # noqa: B006
    trials: Annotated[str | None, typer.Option(metavar="N", help="Finished trials in all; default 20, or all of a grid.")] = None,
    sampler: Annotated[str, typer.Option(help="random, grid, or tpe, which looks at the results so far.")] = "random",
    pruner: Annotated[str, typer.Option(help="Stop bad trials early: none, median or asha.")] = "none",
    metric: Annotated[str, typer.Option(help="Of validation, as in loss; the default is the model's own.")] = "",
    folds: Annotated[str, typer.Option(metavar="K", help="K-fold cross-validation: K trainings for each trial.")] = "1",
    workers: Annotated[
        str, typer.Option(metavar="N", help="Processes here, each on a GPU of its own if there are several.")
    ] = "1",
    study: Annotated[str, typer.Option("--name", help="Of the study; the default is made of model and data.")] = "",
    storage: Annotated[str, typer.Option(metavar="URL", help="A database for several machines, as in postgresql://...")] = "",
    seed: Annotated[str, typer.Option(metavar="N", help="Of what is drawn; training has its own, recipe.seed.")] = "0",
    show: Annotated[bool, typer.Option("--show", help="Only show how a study stands.")] = False,
    wandb_sweep: Annotated[str, typer.Option(metavar="FILE", help="Only write the search as a sweep of W&B.")] = "",
    json: Json = False,
) -> None:
    """Search for good settings: many trainings, judged on validation images. The same command goes on with its study.

    [bold]zoo search mlp --over recipe.lr=log:1e-4..1e-1 --over model.dropout=uniform:0..0.5 --trials 30[/bold]\n
    [bold]zoo search mlp --over 'model.hidden=choice:\\[64],\\[256,128]' --sampler grid --folds 5[/bold]\n
    [bold]zoo search resnet20 --over recipe.lr=log:1e-2..1 --sampler tpe --pruner median --workers 4[/bold]\n
    [bold]zoo search mlp --show[/bold]   table and picture of what there is
    """
    registry = _registry(context)
    entry = registry.model(name)
    if data:
        registry.data_set(data)
    where = (study or f"{name}-{data or entry.data}", storage)
    if show:
        if over or settings or trials or wandb_sweep:
            raise UserError("--show shows a study as it is: leave out what is to be searched")
        from zoo.search.study import Place, find

        place = Place(*where)
        _print_search(registry, place, *find(place, registry), json, _zoo(context))
        return
    from zoo.recipe import parse_setting
    from zoo.search.plan import plan_effort, plan_search

    flags = {"data": {"name": data} if data else {}, "recipe": {"epochs": epochs} if epochs is not None else {}}
    numbers = (_number("--folds", folds), _number("--seed", seed, 0))
    limits = (None if trials is None else _number("--trials", trials), pruner, _number("--workers", workers))
    plan = plan_search(registry, name, [*map(parse_setting, settings), flags], over, sampler, metric, *numbers)
    effort = plan_effort(plan, *limits, context.obj or [])
    if wandb_sweep:
        from zoo.search.wandb_sweep import write_sweep

        write_sweep(Path(wandb_sweep), registry, plan, effort)
        print(f"{wandb_sweep} is written. next: wandb sweep {shlex.quote(wandb_sweep)}")
        return
    _search(registry, where, plan, effort, json, _zoo(context))


def _search(registry: Registry, where: tuple[str, str], plan: Any, effort: Any, json: bool, zoo: str) -> None:
    from zoo.search.points import points_over
    from zoo.search.study import Place, hide_password, start_or_go_on
    from zoo.search.workers import check_data_and_model, run_search
    from zoo.training.checkpoints import Interrupted

    place = Place(*where)
    check_data_and_model(registry, plan)
    study = start_or_go_on(place, plan)
    if done := len(points_over(study, effort.points)):
        print(f"study {place.name} goes on: {done} of {effort.points} trials are finished", file=sys.stderr)
    try:
        run_search(registry, study, place, plan, effort)
    except Interrupted:
        again = shlex.join(["zoo", *map(hide_password, sys.argv[1:])])
        kept = len(points_over(study, effort.points))
        print(f"interrupted; {kept} finished trials are kept. To go on: {again}", file=sys.stderr)
        sys.exit(130)
    _print_search(registry, place, plan, study, json, zoo)
    if not any(trial.value is not None for trial in study.trials):
        raise UserError(f"no trial of study {place.name!r} came to a result: the table says why; for another range, --name NEW")


def _print_search(registry: Registry, place: Any, plan: Any, study: Any, json: bool, zoo: str) -> None:
    from zoo.search.report import records, table, write_best, write_picture

    best, picture = write_best(study, place, plan, registry), write_picture(study, place, plan)
    if json:
        files = {"config": str(best), "picture": str(picture)} if best else {}
        _print_json({"study": place.name, "metric": f"val/{plan.metric}", **files, "trials": records(study, plan)})
        return
    _print_table(*table(study, plan))
    if best is not None:
        print(f"\n{place.folder}/   {best.name}  {picture.name}  trials/")
        print(f"next: {zoo} train --config {shlex.quote(str(best))}")
    else:
        print("\nno trial is complete yet. next: the command that began the study goes on with it, and tries lost trials again")


@app.command(cls=TextCommand)
def check(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A model or a data set, yours perhaps.")],
    gradients: Annotated[bool, typer.Option("--gradients", help="Hold a model's gradients against differences.")] = False,
    json: Json = False,
) -> None:
    """Hold a model or a data set against the zoo's contract.

    [bold]zoo --plugin mine.py check mine[/bold]\n
    [bold]zoo check resnet20 --gradients[/bold]   each parameter's analytic gradient against centred differences
    """
    registry = _registry(context)
    if name not in registry.models and name not in registry.data:
        raise unknown("model or data set", name, [*registry.models, *registry.data], "`zoo list` and `zoo data list` show them")
    entry = registry.model(name) if name in registry.models else registry.data_set(name)
    if gradients:
        _check_gradients(registry, entry, json)
        return
    from zoo.check import check_entry

    results = check_entry(registry, entry)
    if json:
        _print_json([vars(result) for result in results])
    else:
        for result in results:
            print(f"{'ok  ' if result.passed else 'FAIL'}  {result.name}{': ' + result.detail if result.detail else ''}")
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def _check_gradients(registry: Registry, entry: Entry, json: bool) -> None:
    if entry.kind != "model":
        raise UserError(f"--gradients is for models; {entry.name} is a data set")
    from zoo.gradient_check import check_gradients

    results = []
    for result in check_gradients(registry, entry):  # a large network takes a while: tell what is known
        results.append(result)
        if not json:
            shape, verdict = "x".join(map(str, result.shape)), "ok  " if result.passed else "FAIL"
            kinks = f", {result.kinks} left out at kinks" if result.kinks else ""
            print(f"{verdict}  {result.name} {shape}: error {result.error:.1e} at {result.compared} points{kinks}", flush=True)
    failed = [result.name for result in results if not result.passed]
    if json:
        _print_json([result.to_dict() for result in results])
    elif not results:
        print(f"{entry.name} has no parameters, nothing to check")
    else:
        print(f"\n{len(results) - len(failed)} of {len(results)} gradients agree with differences of the loss")
    if failed:
        raise typer.Exit(1)


@app.command(cls=TextCommand)
def doctor(context: typer.Context, json: Json = False) -> None:
    """Look at this machine: versions, devices, folders, plugins, and what is wrong with them."""
    from zoo.doctor import examine

    findings = examine(_registry(context))
    if json:
        _print_json([vars(finding) for finding in findings])
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            print(f"{'    ' if finding.good else 'BAD '} {finding.name.ljust(width)}  {finding.text}")
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)


# ---------------------------------------------------------------------------------------------- data


@data_app.command("list", cls=TextCommand)
def list_data(
    context: typer.Context,
    pattern: Annotated[str, typer.Argument(help="Part of a name or tag, or a pattern.")] = "",
    task: Annotated[str, typer.Option(help="Only data for this kind of work.")] = "",
    json: Json = False,
) -> None:
    """List the data sets."""
    _list(_registry(context).data, pattern, task, json, "zoo data show NAME    zoo data preview NAME")


def _open_data(context: typer.Context, name: str, settings: list[str]) -> tuple[Entry, Any]:
    """The data set with its options checked, not yet fetched."""
    entry = _registry(context).data_set(name)
    options = _data_options(entry, settings)
    from zoo.recipe import Recipe

    recipe = Recipe()
    return entry, entry.load()(recipe.batch_size, recipe.seed, **options)


def _data_options(entry: Entry, settings: list[str]) -> dict[str, Any]:
    """All options of a data set, checked; what must lie at the root that the user names is looked for."""
    from zoo.options import check_options
    from zoo.recipe import parse_setting

    given = {key: value for text in settings for key, value in parse_setting(text, ("data",))["data"].items()}
    options = check_options(entry, given)
    needs_root = any(option.name == "root" and option.default == REQUIRED for option in entry.options)
    if needs_root and not Path(options["root"]).expanduser().exists():
        raise UserError(f"data.root={options['root']}: there is no such file or folder")
    return options


@data_app.command("show", cls=TextCommand)
def show_data(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A data set, as in digits.")],
    settings: SetData = [],  # noqa: B006
    measure: Annotated[bool, typer.Option("--measure", help="Also read it: images a split, statistics, faults.")] = False,
    json: Json = False,
) -> None:
    """Describe a data set and its options: [bold]zoo data show folder --measure --set data.root=photos[/bold]."""
    entry = _registry(context).data_set(name)
    if settings:
        _data_options(entry, settings)
    facts = _data_facts(context, name, settings) if measure else {}
    if json:
        _print_json({**entry.to_dict(), **facts})
        return
    _print_entry(entry, "data")
    if facts:
        print()
    for key, value in facts.items():
        print(f"{key:<12} {value}")
    root = " --set data.root=FOLDER" if any(option.default == REQUIRED for option in entry.options) else ""
    print(f"\nnext    zoo data preview {name}{root}    zoo train NAME --data {name}{root}")


def _data_facts(context: typer.Context, name: str, settings: list[str]) -> dict[str, Any]:
    _, data = _open_data(context, name, settings)
    data.prepare_data()
    data.setup()
    return data.facts()


@data_app.command("fetch", cls=TextCommand)
def fetch_data(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A data set, as in cifar10.")],
    settings: SetData = [],  # noqa: B006
) -> None:
    """Download a data set, verified by its hash, so that training needs no network: [bold]zoo data fetch cifar10[/bold]."""
    _, data = _open_data(context, name, settings)
    data.prepare_data()
    print(f"{name} is here. next: zoo data preview {name}")


@data_app.command("preview", cls=TextCommand)
def preview_data(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A data set, as in digits.")],
    settings: SetData = [],  # noqa: B006
    output: Annotated[str, typer.Option("--output", "-o", help="The PNG to write; default NAME.png.")] = "",
) -> None:
    """Draw samples and, under each, augmented versions: [bold]zoo data preview digits --set data.augment=strong[/bold].

    Of texts and of sequences of numbers, the beginning is printed.
    """
    entry, data = _open_data(context, name, settings)
    if entry.task in ("language-modelling", "sequence-memory"):
        if output:
            raise UserError(f"--output {output}: {name} is printed, not drawn")
        data.prepare_data()
        data.setup()
        print(data.beginning())
        return
    if entry.task == "navigation":
        from zoo.pictures.paths import write_maps

        print(f"{write_maps(data, name, Path(output or f'{name}.png'))}: houses with instructions and the ways that they tell")
        return
    from zoo.pictures.preview import SAMPLES, write_preview

    path = write_preview(data, name, Path(output or f"{name}.png"))
    points = data.image_spec.are_points
    augmented = "" if data.augment == "none" else f" in the first row, augmented ({data.augment}) below"
    shown = "training and test points" if points else f"samples{augmented}"
    print(f"{path}: {shown}")
    if entry.task != "classification":
        for number, lines in enumerate(data.told(SAMPLES), 1):
            print(f"{number}  {'   '.join(lines)}")
