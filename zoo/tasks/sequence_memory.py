"""The sequence memory task: recall parts of a sequence after a delay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.config.recipe import Recipe
from zoo.core.counts import percentage
from zoo.core.errors import UserError
from zoo.metrics.mean_loss import MeanLoss
from zoo.spec import SequenceSpec
from zoo.tasks.samples import SPLIT_NAMES, Samples, Text
from zoo.tasks.task import Task, compute_and_reset

TOLERANCE = 0.04  # a number is right within it (Hochreiter and Schmidhuber 1997, section 5.4)
SHOWN = 6  # sequences in a report


class SequenceMemory(Task):
    """Sequences in, logits of symbols at each step or one number out. A model implements ``forward`` and ``stages``.

    A batch is a dict: ``inputs``, float [N, T, features]; ``targets``, int64 [N, T] where the spec has symbols, and else float
    [N]; and in evaluation ``counted``, bool [N], which sequences count. It may also be a tuple of inputs and targets.

    The loss of symbols is the cross-entropy in nats per step; ``accuracy`` is that of steps whose target is not the first symbol.
    The loss of a number is its squared error, and ``solved`` is the fraction of sequences with an error below 0.04.
    """

    task = "sequence-memory"
    use_command = "test {run}"
    monitor = "loss"
    directions = {"loss": "min", "accuracy": "max", "solved": "max"}

    def __init__(self, spec: SequenceSpec, recipe: Recipe | None = None) -> None:
        super().__init__(spec, recipe)
        if self.recipe.label_smoothing and not spec.symbols:
            raise UserError(
                f"recipe.label_smoothing={self.recipe.label_smoothing}: needs symbols, and the targets of this data are numbers"
            )
        self.score_name = "accuracy" if spec.symbols else "solved"
        self.metrics = nn.ModuleDict(
            {stage: nn.ModuleDict({"loss": MeanLoss(), self.score_name: MeanLoss()}) for stage in ("val", "test")}
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of the symbols at each step, [N, T, symbols], or, without symbols, numbers [N].

        Args:
            inputs: float, [N, T, features].
        """
        raise NotImplementedError

    def score(self, answers: Tensor, targets: Tensor, smoothing: float = 0.0) -> dict[str, Tensor]:
        """Loss and score of each sequence, [N] each, with label ``smoothing``."""
        if not self.spec.symbols:
            errors = answers - targets
            return {"loss": errors.square(), self.score_name: (errors.detach().abs() < TOLERANCE).float()}
        losses = F.cross_entropy(answers.transpose(1, 2), targets, reduction="none", label_smoothing=smoothing)
        mask = targets > 0
        right = (answers.detach().argmax(2) == targets) & mask
        return {"loss": losses.mean(1), self.score_name: right.sum(1) / mask.sum(1)}

    def batch_from_tuple(self, inputs: Tensor, targets: Tensor | None = None) -> dict[str, Tensor]:
        if targets is None:
            return {"inputs": inputs}
        return {"inputs": inputs, "targets": targets, "counted": torch.ones(len(inputs), dtype=torch.bool, device=inputs.device)}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        scored = self.score(self(batch["inputs"]), batch["targets"], self.recipe.label_smoothing)
        return self.objective(scored["loss"].mean(), len(batch["inputs"]), **{self.score_name: scored[self.score_name].sum()})

    def evaluation_step(self, stage: str, batch: dict[str, Tensor]) -> None:
        for name, values in self.score(self(batch["inputs"]), batch["targets"]).items():
            self.metrics[stage][name].update(values, batch["counted"])

    def compute_metrics(self, stage: str) -> dict[str, float]:
        return compute_and_reset(self.metrics[stage])

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> Tensor:
        """Probabilities of the symbols at each step, [N, T, symbols], or numbers [N]."""
        answers = self(batch["inputs"]).float()
        return answers.softmax(-1) if self.spec.symbols else answers

    def report_samples(self, data: Any, split: str = "test") -> Samples:
        """The first sequences, with expected and predicted outputs."""
        named = SPLIT_NAMES[split]
        batch = next(iter(getattr(data, f"{split}_dataloader")()))
        inputs, targets = batch["inputs"], batch["targets"]
        outputs = self(inputs.to(self.device)).float().cpu()
        scores = self.score(outputs, targets)[self.score_name]
        predicted = outputs.argmax(-1) if self.spec.symbols else outputs
        texts = []
        for row in range(min(SHOWN, len(inputs))):
            read, _, expected = data.to_text(inputs[row], targets[row]).rpartition("\n")
            answer = data.to_text(inputs[row], predicted[row]).rpartition("\n")[2]
            title = f"{'✓' if scores[row] == 1 else '✗'} {named} sequence {row}, {self._difference(predicted[row], targets[row])}"
            text = f"input      {read}\nexpected   {expected}\npredicted  {answer}"
            texts.append(Text(title, text, is_aligned=bool(self.spec.symbols)))
        what = "of the target symbols" if self.spec.symbols else f"(off by less than {TOLERANCE})"
        correct = percentage(float(scores.sum()), len(scores))
        about = f"Of the first {len(inputs):,} {named} sequences the best checkpoint is correct on {correct} {what}."
        return Samples(about, texts=texts)

    def _difference(self, predicted: Tensor, target: Tensor) -> str:
        """Expected and predicted symbols of one sequence; of numbers, their difference."""
        if not self.spec.symbols:
            return f"off by {float((predicted - target).abs()):.2f}"
        mask = target > 0
        expected, answer = ("".join(self.spec.symbols[place] for place in row[mask].tolist()) for row in (target, predicted))
        return f"expected {expected}, predicted {answer}"

    def example_batch(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        length, symbols = self.spec.length, len(self.spec.symbols)
        inputs = torch.rand(n, length, self.spec.features, generator=generator)
        targets = torch.randint(1, symbols, (n, length), generator=generator) if symbols else torch.rand(n, generator=generator)
        return {"inputs": inputs, "targets": targets}
