"""Time to find the nearest neighbors of test images: the zoo over scikit-learn's brute force and faiss.

    pip install faiss-cpu
    python benchmarks/knn.py
    python benchmarks/knn.py --data FOLDER/

All three search the same training images, in memory and ready in the form that each likes best, for the same queries, in turns
within one process and with all cores. The ratios are of the medians, to the faster of the other two.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer
from sklearn.neighbors import NearestNeighbors as SklearnNeighbors

import zoo
from zoo.config.resolution import resolve
from zoo.config.settings import parse_setting
from zoo.layers.neighbors import NearestNeighbors
from zoo.training import building

PLUGIN = Path(__file__).with_name("random_images.py")


def zoo_search(stored: torch.Tensor, asked: torch.Tensor, metric: str, k: int) -> Callable[[], np.ndarray]:
    index = NearestNeighbors(stored, metric)
    return lambda: index.search(asked, k)[0].double().pow(0.5 if metric == "L2" else 1).numpy()


def faiss_search(stored: torch.Tensor, asked: torch.Tensor, metric: str, k: int) -> Callable[[], np.ndarray]:
    import faiss

    index = faiss.IndexFlat(stored.shape[1], {"L1": faiss.METRIC_L1, "L2": faiss.METRIC_L2}[metric])
    index.add(stored.float().numpy())
    queries = asked.float().numpy()
    return lambda: index.search(queries, k)[0] ** (0.5 if metric == "L2" else 1)


def sklearn_search(stored: torch.Tensor, asked: torch.Tensor, metric: str, k: int) -> Callable[[], np.ndarray]:
    name = {"L1": "manhattan", "L2": "euclidean"}[metric]
    index = SklearnNeighbors(n_neighbors=k, algorithm="brute", metric=name).fit(stored.float().numpy())
    queries = asked.float().numpy()
    return lambda: index.kneighbors(queries)[0]


SEARCHES = {"zoo": zoo_search, "faiss": faiss_search, "scikit-learn": sklearn_search}


def main(
    data: str = "random-images",
    queries: int = 128,
    k: int = 5,
    rounds: int = 5,
    setting: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE")] = [],  # noqa: B006
) -> None:
    """Measure in turns and print the ratios."""
    registry = zoo.scan([str(PLUGIN)])
    module = building.build_data(registry, resolve(registry, "knn", {}, [{"data": {"name": data}}, *map(parse_setting, setting)]))
    pixels = module.splits["train"].images.pixels.flatten(1)
    stored, asked = pixels[:-queries].contiguous(), pixels[-queries:].contiguous()
    print(f"{queries} queries among {len(stored):,} images of {stored.shape[1]:,} values, {torch.get_num_threads()} threads")
    for metric in ("L1", "L2"):
        searches = {name: make(stored, asked, metric, k) for name, make in SEARCHES.items()}
        times: dict[str, list[float]] = {name: [] for name in searches}
        found: dict[str, np.ndarray] = {}
        for turn in range(rounds + 1):
            for name, search in searches.items():
                start = time.perf_counter()
                found[name] = search()
                times[name] += [time.perf_counter() - start] if turn else []  # the first is warming up
        for distances in found.values():
            np.testing.assert_allclose(distances, found["zoo"], rtol=1e-4)
        medians = {name: median(values) for name, values in times.items()}
        fastest = min(("faiss", "scikit-learn"), key=medians.get)
        told = "  ".join(f"{name} {seconds:.3f} s" for name, seconds in medians.items())
        print(f"{metric}  {told}  ratio to {fastest} {medians['zoo'] / medians[fastest]:.3f}")


if __name__ == "__main__":
    typer.run(main)
