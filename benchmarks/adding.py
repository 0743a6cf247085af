"""The adding problem: the mean squared error of an LSTM and of a vanilla recurrent network that must remember over many steps.

    python benchmarks/adding.py
    python benchmarks/adding.py --length 20

At each of 150 steps the network reads a random number in [0, 1] and a marker, which is 1 at one step of either half and 0
elsewhere; after the last step it is to give the sum of the two marked numbers (Hochreiter and Schmidhuber 1997, section 5.4, with
the lengths of Le, Jaitly and Hinton 2015, arXiv:1504.00941). Who has learned nothing but the mean errs by the variance of the sum
of two uniform numbers, 1/6 = 0.167.

Both networks see the same sequences, never one twice, and each has a learning rate that suits it: with that of the LSTM a vanilla
network does not learn even 20 steps, with its own it does. Prints both errors on sequences that neither has seen.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.randomness import derive_seed

SOLVED = 0.005  # training ends at half of the error that counts as solved
CHECK_EVERY = 200  # steps
GRADIENT_NORM = 1.0
KINDS = {"LSTM": nn.LSTM, "vanilla RNN": nn.RNN}


@dataclass(frozen=True)
class Result:
    """The error on new sequences, and the steps and seconds of training that it took."""

    error: float
    steps: int
    seconds: float


class Adder(nn.Module):
    """A recurrent layer that reads pairs [N, T, 2], and a linear one that makes a number [N] of its last output."""

    def __init__(self, kind: Literal["LSTM", "vanilla RNN"], hidden: int) -> None:
        super().__init__()
        self.recurrent = KINDS[kind](2, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 1)
        if kind == "LSTM":
            with torch.no_grad():  # a forget bias of 1, so that the cell keeps something from the start (Gers et al. 2000)
                self.recurrent.bias_ih_l0[hidden : 2 * hidden] = 1
                self.recurrent.bias_hh_l0[hidden : 2 * hidden] = 0

    def forward(self, pairs: Tensor) -> Tensor:
        return self.head(self.recurrent(pairs)[0][:, -1])[:, 0]


def sequences(count: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pairs of a number and a marker, [count, length, 2], and the sums of the two marked numbers, [count]."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(count, length, generator=generator)
    middle = length // 2
    first = torch.randint(0, middle, (count, 1), generator=generator)
    second = torch.randint(middle, length, (count, 1), generator=generator)
    marked = torch.cat((first, second), 1)
    markers = torch.zeros(count, length).scatter_(1, marked, 1)
    return torch.stack((numbers, markers), 2), numbers.gather(1, marked).sum(1)


@torch.no_grad()
def error(network: Adder, count: int, length: int, seed: int) -> float:
    """The mean squared error on sequences of one seed."""
    pairs, sums = sequences(count, length, seed)
    return F.mse_loss(network(pairs), sums).item()


def train(kind: Literal["LSTM", "vanilla RNN"], length: int, hidden: int, batch: int, lr: float, steps: int, seed: int) -> Result:
    """Train one network with Adam until it has solved the problem, or for all ``steps``."""
    torch.manual_seed(derive_seed(seed, "weights"))
    network = Adder(kind, hidden)
    optimizer = torch.optim.Adam(network.parameters(), lr)
    start = time.perf_counter()
    for step in range(1, steps + 1):
        pairs, sums = sequences(batch, length, derive_seed(seed, "training", step))
        loss = F.mse_loss(network(pairs), sums)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
        optimizer.step()
        if step % CHECK_EVERY == 0 and error(network, 500, length, derive_seed(seed, "validation")) < SOLVED:
            break
    seconds = time.perf_counter() - start
    return Result(error(network, 5000, length, derive_seed(seed, "test")), step, seconds)


def main(
    length: int = 150,
    hidden: int = 100,
    batch: int = 20,
    lr: float = 4e-3,
    vanilla_lr: float = 1e-3,
    steps: int = 5000,
    seed: int = 0,
    threads: int = 1,
) -> None:
    """Train both and print their errors."""
    torch.set_num_threads(threads)  # the products of one step are too small to be shared
    print(f"{length} steps, {hidden} units, batches of {batch}; mean squared error of who has learned nothing: 0.167")
    for kind, rate in {"LSTM": lr, "vanilla RNN": vanilla_lr}.items():
        result = train(kind, length, hidden, batch, rate, steps, seed)
        print(f"{kind:<12} {result.error:.4f}   after {result.steps} steps, {result.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    typer.run(main)
