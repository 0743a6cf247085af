"""Time ``zoo runs`` over many run folders, beside ``import typer``: python benchmarks/runs.py --count 500"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def make_runs(folder: Path, count: int, records: int) -> None:
    """One short training, and copies of it with more records and other rates."""
    train = [sys.executable, "-m", "zoo", "train", "mlp", "--epochs", "1", "--name", "0", "--runs-dir", str(folder)]
    subprocess.run(train, check=True, capture_output=True)
    first = folder / "0"
    line = next(each for each in (first / "metrics.jsonl").read_text().splitlines() if '"val/' in each)
    for number in range(1, count):
        copy = folder / str(number)
        copy.mkdir()
        for name in ("environment.json", "monitors.jsonl", "run.yaml", ".lock"):
            shutil.copy(first / name, copy / name)
        text = (first / "run.yaml").read_text().replace("lr: ", f"lr: {1 + number}e-9 # ", 1)
        (copy / "run.yaml").write_text(text)
        lines = [json.dumps({**json.loads(line), "step": step, "epoch": step}) for step in range(records)]
        (copy / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def seconds(command: list[str], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="run folders")
    parser.add_argument("--records", type=int, default=100, help="records of metrics in each")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_runs(Path(folder), given.count, given.records)
        ours = seconds([sys.executable, "-m", "zoo", "runs", "--runs-dir", folder], given.repeats)
    typer = seconds([sys.executable, "-c", "import typer"], given.repeats)
    print(f"zoo runs over {given.count} folders: {ours:.2f} s; import typer: {typer:.2f} s; ratio {ours / typer:.1f}")


if __name__ == "__main__":
    main()
