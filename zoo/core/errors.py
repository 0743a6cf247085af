"""The exception for user errors, and messages of one line that name the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

FORMER_NAMES = {
    "activation_checkpointing": "gradient_checkpointing",
    "average_decay": "ema_decay",
    "beta1": "optimizer_args.betas",
    "beta2": "optimizer_args.betas",
    "block_size": "seq_len",
    "bptt": "seq_len",
    "chunk": "seq_len",
    "clip": "gradient_clip_val",
    "drop_path": "drop_path_rate",
    "drop_path_rate": "stochastic_depth_prob",
    "frozen": "freeze_encoder",
    "glances": "num_queries",
    "horizon": "chrono_t_max",
    "image_size": "size",
    "join": "fusion",
    "learning_rate": "lr",
    "least": "min_count",
    "least_answers": "min_answer_count",
    "longest": "max_length",
    "longest_caption": "max_caption_length",
    "looks": "num_layers",
    "momentum": "optimizer_args.momentum",
    "most": "max_objects",
    "n_neighbors": "k",
    "nesterov": "optimizer_args.nesterov",
    "pictures": "num_images",
    "positions": "pos_embed",
    "scale_lr_to": "lr_base_batch_size",
    "stochastic_depth": "drop_path_rate",
    "stochastic_depth_prob": "drop_path_rate",
    "swa": "average",
    "together": "questions_per_sample",
    "width": "embed_dim",
}  # earlier names and those of other libraries -> ours, for hints where the spelling is not near


class UserError(Exception):
    """An error that the user can fix. The command prints its text as one line and exits with code 2."""


class Failure(Exception):
    """An error from outside that the user may or may not be able to fix, such as a lost process.

    The command prints its text as one line and exits with code 1.
    """


class Interrupted(KeyboardInterrupt):
    """Work was stopped by a signal where it can be continued exactly, or restarted, if nothing was saved yet.

    As any KeyboardInterrupt it passes ``except Exception``: Ctrl-C ends a program of many trainings, too.

    Args:
        text: what was kept.
        run: name of the run, if it is kept.
        is_saved: whether it has a checkpoint.
    """

    def __init__(self, text: str = "interrupted", run: str = "", is_saved: bool = False) -> None:
        super().__init__(text)
        self.run, self.is_saved = run, is_saved


def one_line(error: object, longest: int | None = None) -> str:
    """The text of an error, which may hold line breaks, as one line of at most ``longest`` characters."""
    return " ".join(str(error).split())[:longest]


def first_line(error: BaseException) -> str:
    """The first line of a library's error; after it libraries give advice on settings that do not apply here."""
    if callable(faults := getattr(error, "errors", None)) and (listed := faults()):  # of pydantic: the first line counts them
        return one_line(f"{'.'.join(map(str, listed[0]['loc']))}: {listed[0]['msg']}", 200)
    return one_line(next(iter(str(error).strip().splitlines()), ""), 200) or type(error).__name__


def some(names: Iterable[object], shown: int = 5) -> str:
    """The first names, and how many more there are."""
    texts = list(map(str, names))
    more = f" and {len(texts) - shown:,} more" if len(texts) > shown else ""
    return ", ".join(texts[:shown]) + more


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a message about an unknown name, if a known one is similar."""
    near = _nearest(name, known, 1, 0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _nearest(name: str, known: Iterable[str], count: int, cutoff: float) -> list[str]:
    """The known names of similar spelling, in any case; that alone which differs in nothing else."""
    by_lower = {each.lower(): each for each in known}
    name = name.lower()
    near = [name] if name in by_lower else difflib.get_close_matches(name, by_lower, count, cutoff)
    return [by_lower[each] for each in near]


def near_path(path: Path) -> str:
    """A hint for a message about a missing path, if its folder has a similar name."""
    path = path.absolute()
    missing, place = next((each, each.parent) for each in (path, *path.parents) if each.parent.exists())
    try:
        near = did_you_mean(missing.name, (each.name for each in place.iterdir()))
    except OSError:  # not a folder, or one that may not be looked into
        near = ""
    return near or ("" if missing == path else f": {place} holds no {missing.name!r}")


def unknown(what: str, name: str, known: Iterable[str], hint: str = "") -> UserError:
    """The error for a name that does not exist, with the nearest names that do.

    Args:
        what: the kind of thing, as it reads after "no" ("model", "recipe key").
        name: the unknown name.
        known: the names that exist.
        hint: what to do when no name is near; by default the known names are listed.
    """
    known = sorted(known)
    former = FORMER_NAMES.get(name, "")
    cutoff = 0.8 if former else 0.5  # a name with a known meaning is hardly a misspelling of one that looks a little like it
    near = [former] if former.partition(".")[0] in known else _nearest(str(name), known, 3, cutoff)
    if near:
        return UserError(f"no {what} {name!r}: did you mean {' or '.join(map(repr, near))}?")
    if not known and not hint:
        return UserError(f"no {what} {name!r}: there is none")
    return UserError(f"no {what} {name!r}: {hint or 'choose from ' + ', '.join(known)}")
