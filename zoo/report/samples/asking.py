"""Lets the network of a run speak: which function asks it, by its work. Needs its checkpoint and data."""

from __future__ import annotations

from collections.abc import Callable

import torch

from zoo.core.download import nothing_downloaded
from zoo.core.errors import UserError, one_line
from zoo.pictures.predictions import load_trained
from zoo.registry.registry import Registry
from zoo.report.samples.captioning import ask_captioner
from zoo.report.samples.classification import ask_classifier
from zoo.report.samples.dialogue import ask_in_dialogues
from zoo.report.samples.language_modeling import ask_language_model
from zoo.report.samples.navigation import ask_navigator
from zoo.report.samples.question_answering import ask_questions
from zoo.report.samples.samples import Samples, Trained
from zoo.report.samples.sequence_memory import ask_memory
from zoo.training.run_folder import RunFolder

ASKED_BY: dict[str, Callable[[Trained], Samples]] = {  # by task
    "captioning": ask_captioner,
    "classification": ask_classifier,
    "dialogue": ask_in_dialogues,
    "language-modeling": ask_language_model,
    "navigation": ask_navigator,
    "question-answering": ask_questions,
    "sequence-memory": ask_memory,
}


def take_samples(registry: Registry, folder: RunFolder) -> Samples:
    """Let the best checkpoint of a run speak; a run that cannot gives the reason. Nothing is downloaded for it."""
    try:
        with nothing_downloaded(), torch.inference_mode():
            task, run = load_trained(registry, folder, "best")
            if task.task not in ASKED_BY:
                return Samples(missing=f"This model is for {task.task}, of which the report knows nothing to ask.")
            task.to("cuda" if torch.cuda.is_available() else "cpu")
            return ASKED_BY[task.task](Trained(registry, folder, task, run))
    except UserError as error:
        return Samples(missing=f"The network was not asked: {error}.")
    except Exception as error:  # of data and networks of others: the rest of the report stands without them
        return Samples(missing=f"The network could not be asked: {type(error).__name__}: {one_line(error, 200)}.")
