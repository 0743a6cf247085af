"""Characters per second of ``zoo train char-lstm`` over the best loop that one would write by hand for the same LSTM and text.

    python benchmarks/text.py
    python benchmarks/text.py --data text --set data.root=FILE

The loop by hand holds the text as bytes, cuts the next chunk of every row by slices, carries the state, uses a fused optimizer
and logs nothing. The two take turns, block by block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import torch
import typer
from torch.nn import functional as F
from turns import take_turns, tell

import zoo
from zoo.config.resolution import resolve
from zoo.config.run import Run
from zoo.config.settings import parse_setting
from zoo.training import building


def by_hand(registry: Any, run: Run, data: Any) -> Iterator[None]:
    """A hand-written training that never ends; each ``next`` is one step."""
    recipe, chunk = run.recipe, run.data["seq_len"]
    network = building.build_task(registry, run, data.spec).train()
    optimizer = torch.optim.AdamW(
        network.parameters(), recipe.lr, recipe.optimizer_args["betas"], weight_decay=recipe.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, 10**6, cycle_momentum=False)
    text = data.splits["train"]
    length = (len(text) - 1) // recipe.batch_size
    rows = text[: length * recipe.batch_size].view(recipe.batch_size, length)
    while True:
        state = None
        for start in range(0, length - chunk - 1, chunk):
            window = rows[:, start : start + chunk + 1].long()
            scores, state = network(window[:, :-1], state)
            loss = F.cross_entropy(scores.flatten(0, 1), window[:, 1:].flatten())
            state = tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.gradient_clip_val)
            optimizer.step()
            schedule.step()
            yield


def main(
    model: Annotated[str, typer.Argument(help="A recurrent language model.")] = "char-lstm",
    data: str = "pydoc",
    steps: int = 100,
    block: Annotated[int, typer.Option(help="Steps that each of the two goes before the other has its turn.")] = 2,
    setting: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE")] = [],  # noqa: B006
) -> None:
    """Train both in turns and print the ratio of the times, and of the characters per second."""
    registry = zoo.scan()
    settings = {"data": {"name": data}, "recipe": {"epochs": 1}, "trainer": {"limit_train_batches": steps}}
    run = resolve(registry, model, {}, [settings, *map(parse_setting, setting)])
    module = building.build_data(registry, run)
    turns = take_turns(registry, run, module, by_hand(registry, run, module), block)
    tell(turns, block)
    rates = sorted(turn.hand / turn.zoo for turn in turns)
    print(f"zoo's characters per second over those by hand: {rates[len(rates) // 2]:.3f}")


if __name__ == "__main__":
    typer.run(main)
