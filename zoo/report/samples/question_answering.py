"""What a network answers to questions about test pictures."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from zoo.report.samples.samples import Samples, Scene, Trained, Turn, evenly_spread, part_of, require_some, scene_address
from zoo.spec import IGNORE, UNKNOWN_ANSWER, QuestionSpec
from zoo.tasks.question_answering import QuestionAnswerer, accuracies, was_asked

MOST_TESTED = 100  # pictures with their questions: some networks compare all pairs of places for each
SHOWN = 8
SHOWN_QUESTIONS = 4  # about each picture, the wrong answers first


def ask_questions(trained: Trained) -> Samples:
    """Some test pictures, each with questions, and what is answered."""
    task, data = trained.task, trained.open_data()
    split = data.splits["test"]
    require_some(split, "test pictures")
    chosen = evenly_spread(len(split), MOST_TESTED)
    scenes, right, asked = [], 0.0, 0
    shown = set(chosen[evenly_spread(len(chosen), SHOWN)].tolist())
    for indices in chosen.split(data.batch_size):
        batch = split.batch(next(split.images.batches(iter([indices]))), indices)
        on_device = {name: batch[name].to(task.device) for name in ("images", "questions")}
        probability, said = task.predict_step(on_device).cpu().max(-1)
        shares, there = accuracies(said, batch["labels"]), was_asked(batch["labels"])
        right, asked = right + float((shares * there).sum()), asked + int(there.sum())
        for row, index in enumerate(indices.tolist()):
            if index in shown:
                turns = _turns(task, batch, row, said[row], probability[row], shares[row])
                scenes.append(Scene(scene_address(batch["images"][row].cpu()), f"test picture {index}", turns=turns))
    part = part_of(len(chosen), len(split), "test pictures")
    accuracy = f"{right / asked:.2%} of the {asked:,} questions" if asked else "no question"
    about = f"The best checkpoint is right on {accuracy} about {part}."
    return Samples(f"{about} Below are {len(scenes)} of these, with the questions first that it answers wrongly.", scenes=scenes)


def _turns(
    task: QuestionAnswerer, batch: dict[str, Tensor], row: int, said: Tensor, probability: Tensor, shares: Tensor
) -> tuple[Turn, ...]:
    """Some questions about one picture."""
    spec, labels = task.spec, batch["labels"][row]
    asked = was_asked(batch["labels"][row : row + 1])[0].nonzero()[:, 0]
    order = asked[shares[asked].argsort(stable=True)][:SHOWN_QUESTIONS]
    return tuple(
        Turn(
            f"{' '.join(spec.decode(batch['questions'][row, place].tolist()))}?",
            spec.answers[int(said[place])],
            bool(shares[place] >= 0.5),  # of ten people, at least two say the same
            right_answers(spec, torch.atleast_1d(labels[place])),
            float(probability[place]),
        )
        for place in order.tolist()
    )


def right_answers(spec: QuestionSpec, labels: Tensor) -> str:
    """What people answered, int64 [people], in words: each answer once, with how many gave it, the most frequent first."""
    given = Counter(label for label in labels.tolist() if label != IGNORE)
    names = {label: "what it cannot say" if label == UNKNOWN_ANSWER else spec.answers[label] for label in given}
    if given.total() == 1:
        return names[next(iter(given))]
    return ", ".join(f"{names[label]} ({count})" for label, count in given.most_common())
