"""What a network gives back of test sequences that it has read."""

from __future__ import annotations

from torch import Tensor

from zoo.report.samples.samples import Samples, Text, Trained
from zoo.tasks.sequence_memory import TOLERANCE, SequenceMemory

SHOWN = 6


def ask_memory(trained: Trained) -> Samples:
    """The first test sequences, what is expected of each, and what is said."""
    task, data = trained.task, trained.open_data()
    batch = next(iter(data.test_dataloader()))
    inputs, targets = batch["inputs"], batch["targets"]
    outputs = task(inputs.to(task.device)).float().cpu()
    scores = task.score(outputs, targets)[task.score_name]
    said = outputs.argmax(-1) if task.spec.symbols else outputs
    texts = []
    for row in range(min(SHOWN, len(inputs))):
        read, _, expected = data.to_text(inputs[row], targets[row]).rpartition("\n")
        answer = data.to_text(inputs[row], said[row]).rpartition("\n")[2]
        lines = f"read      {read}\nexpected  {expected}\nsaid      {answer}"
        how = f"{'✓' if scores[row] == 1 else '✗'} test sequence {row}, {_difference(task, said[row], targets[row])}"
        texts.append(Text(how, lines, is_aligned=bool(task.spec.symbols)))
    what = "of the symbols that are asked for" if task.spec.symbols else f"(off by less than {TOLERANCE})"
    about = f"Of the first {len(inputs):,} test sequences the best checkpoint is right on {scores.mean():.2%} {what}."
    return Samples(about, texts=texts)


def _difference(task: SequenceMemory, said: Tensor, target: Tensor) -> str:
    """What is asked for of one sequence beside what is said there; of numbers, how far they are apart."""
    if not task.spec.symbols:
        return f"off by {float((said - target).abs()):.2f}"
    expected, answer = ("".join(task.spec.symbols[place] for place in row[target > 0].tolist()) for row in (target, said))
    return f"expected {expected}, said {answer}"
