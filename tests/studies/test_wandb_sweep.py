"""A search as a sweep of W&B: the same space in both, and what its agents run."""

from __future__ import annotations

import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb.sdk.sweeps.scheduler.optuna import sweep_parameter_to_distribution

from tests.wandb_sweep_service import WandbSweepService
from zoo.api.search import plan_search
from zoo.config.settings import read_config
from zoo.registry.registry import scan
from zoo.studies.plan import Budget, Search
from zoo.studies.wandb_sweep import sweep
from zoo.training.run_folder import RunFolder

REGISTRY = scan()
LR = "recipe.lr=log:1e-4..1e-1"
QUICK = ["--set", "trainer.limit_train_batches=2", "--set", "trainer.accelerator=cpu"]
RANGES = [LR, "model.dropout=uniform:0..0.5", "recipe.batch_size=log:8..512", "recipe.epochs=uniform:1..9",
          "recipe.optimizer_args.eps=log:1e-9..1e-6"]  # fmt: skip
CHOICES = ["recipe.optimizer=choice:adam,adamw", "model.hidden_sizes=choice:[64],[512,256]", "recipe.compile=choice:true,false",
           "recipe.gradient_clip_val=choice:null,1", 'data.augment=choice:none,"crop:1,cutout:2"']  # fmt: skip


def planned(*over: str, **options: Any) -> Search:
    defaults = {"data": "", "epochs": None, "settings": (), "sampler": "random", "pruner": "none", "metric": "", "folds": 1,
                "seed": 0, "workers": 1, "trials": None}  # fmt: skip
    return plan_search("mlp", list(over), **{**defaults, **options})[0]


def flat(parameters: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """The parameters of a sweep by dotted key."""
    found: dict[str, dict[str, Any]] = {}
    for key, parameter in parameters.items():
        found |= flat(parameter["parameters"], f"{prefix}{key}.") if "parameters" in parameter else {f"{prefix}{key}": parameter}
    return found


def test_a_sweep_has_the_distributions_that_wandb_itself_reads_as_ours() -> None:
    search = planned(*RANGES, *CHOICES)
    written = yaml.safe_load(yaml.safe_dump(sweep(REGISTRY, search, Budget(30))))
    assert (written["method"], written["run_cap"]) == ("random", 30)
    assert written["metric"] == {"name": "val/accuracy", "goal": "maximize"}
    parameters = flat(written["parameters"])
    trial = optuna.create_study().ask()
    for dimension in search.space:
        if dimension.kind == "choice":
            assert parameters[dimension.key] == {"values": dimension.ends()}
            continue
        dimension.suggest(trial)
        assert sweep_parameter_to_distribution(parameters[dimension.key]) == trial.distributions[dimension.key]


def test_a_sweep_of_a_grid_lists_its_points_and_hyperband_is_successive_halving() -> None:
    search = planned("recipe.lr=log:1e-4..1e-1:4", "recipe.epochs=uniform:1..3", sampler="grid", metric="loss")
    written = sweep(REGISTRY, search, Budget(12, "asha"))
    assert written["method"] == "grid" and written["early_terminate"] == {"type": "hyperband", "min_iter": 1, "eta": 4}
    assert written["metric"] == {"name": "val/loss", "goal": "minimize"}
    parameters = flat(written["parameters"])
    assert parameters["recipe.lr"]["values"] == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])
    assert parameters["recipe.epochs"] == {"values": [1, 2, 3]}


def test_a_sweep_and_a_search_share_one_space() -> None:
    search = planned(*RANGES, *CHOICES)
    Path("sweep.yaml").write_text(yaml.safe_dump(sweep(REGISTRY, search, Budget(30)), sort_keys=False))
    for over in (["sweep.yaml"], Path("sweep.yaml")):
        again = plan_search("mlp", over, "", epochs=None, settings=(), sampler="random", pruner="none", metric="", folds=1,
                            seed=0, workers=1, trials=None)[0]  # fmt: skip
        read = {dimension.key: (dimension.kind, dimension.ends()) for dimension in again.space}
        assert read == {dimension.key: (dimension.kind, dimension.ends()) for dimension in search.space}


def test_the_ranges_of_a_sweep_that_others_wrote_are_read() -> None:
    parameters = {
        "recipe.lr": {"distribution": "log_uniform", "min": math.log(1e-4), "max": math.log(1e-1)},
        "recipe.weight_decay": {"min": 0.0, "max": 0.5},
        "recipe": {"parameters": {"epochs": {"value": 3}, "batch_size": {"min": 16, "max": 64}}},
    }
    Path("theirs.yaml").write_text(yaml.safe_dump({"program": "train.py", "method": "bayes", "parameters": parameters}))
    search = planned("theirs.yaml", "model.dropout=uniform:0..0.5")
    space = {dimension.key: dimension for dimension in search.space}
    assert set(space) == {"recipe.lr", "recipe.weight_decay", "recipe.batch_size", "model.dropout"}
    assert space["recipe.lr"].kind == "log" and space["recipe.lr"].ends() == pytest.approx([1e-4, 1e-1])
    assert space["recipe.batch_size"].is_integer and search.base["recipe"]["epochs"] == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("parameters: {recipe.lr: {distribution: normal, mu: 1}}", ["'normal'", "recipe.lr", "f.yaml", "'uniform'"]),
        ("parameters: {recipe.lr: {min: 0.1}}", ["recipe.lr", "min and max"]),
        ("parameters: {recipe.lr: 0.1}", ["recipe.lr", "values"]),
        ("parameters: {recipe: {parameters: {rl: {values: [1, 2]}}}}", ["no recipe key 'rl'", "'lr'"]),
        ("parameters: {recipe.lr: {values: [1, 2], probabilities: [0.9, 0.1]}}", ["recipe.lr", "omit probabilities"]),
        ("method: random", ["f.yaml", "no parameters"]),
        ("- recipe.lr", ["--over f.yaml: is no sweep configuration of W&B: it has no parameters"]),
        ("[1", ["f.yaml", "not YAML"]),
    ],
)
def test_a_sweep_that_is_no_search_is_one_line(zoo, content: str, words: list[str]) -> None:
    Path("f.yaml").write_text(content)
    assert zoo("search", "mlp", "--over", "f.yaml").is_one_line_error(*words)
    assert zoo("search", "mlp", "--over", "e.yaml").is_one_line_error("e.yaml", "'f.yaml'")


def test_the_sweep_of_the_page_on_search_is_what_its_command_writes(zoo) -> None:
    page = (Path(__file__).parents[2] / "docs" / "search.md").read_text()
    command = next(line for line in page.splitlines() if "--wandb-sweep sweep.yaml" in line)
    assert zoo(*shlex.split(command)[1:]).code == 0
    assert zoo(*shlex.split(command)[1:]).code == 0, "the same again"
    shown = page.partition("```yaml file=sweep.yaml\n")[2].partition("```")[0]
    assert yaml.safe_load(shown) == yaml.safe_load(Path("sweep.yaml").read_text())
    Path("sweep.yaml").write_text(edited := "# by hand\n" + shown)
    assert zoo(*shlex.split(command)[1:]).is_one_line_error("--wandb-sweep sweep.yaml: exists and holds something else")
    assert Path("sweep.yaml").read_text() == edited


def test_what_an_agent_runs_is_zoo_train_with_what_was_sampled(zoo) -> None:
    answer = zoo("search", "mlp", "--epochs", "5", "--set", "data.augment=crop:1,cutout:2", "--set", "wandb.project=birds",
                 "--over", LR, "--over", "model.hidden_sizes=choice:[64],[512, 256]", "--sampler", "tpe", "--name", "sizes",
                 "--wandb-sweep", "my sweep.yaml")  # fmt: skip
    assert answer.code == 0 and "wandb sweep 'my sweep.yaml'" in answer.out and not Path("searches").exists()
    written = yaml.safe_load(Path("my sweep.yaml").read_text())
    assert (written["method"], written["name"], written["project"]) == ("bayes", "sizes", "birds")
    sampled = {"args": {"recipe": {"value": {"lr": 1e-05}}, "model": {"value": {"hidden_sizes": [512, 256]}}}}
    variables = create_sweep_command_args(sampled)  # as wandb's agent puts a command together
    command = [word for part in create_sweep_command(written["command"])
               for word in (variables[part[2:-1]] if part.startswith("${") and part.endswith("}") else [part])]  # fmt: skip
    assert command[:3] == ["zoo", "train", "mlp"]
    offline = ["off" if word == "online" else word for word in command[1:]]
    answer = zoo(*offline, *QUICK, "--epochs", "1", "--name", "trial", "--json")
    assert answer.code == 0 and list(json.loads(answer.out)) == ["run", "val/accuracy"]
    run = RunFolder(Path("runs/trial")).read_run()
    assert (run.recipe.lr, run.model["hidden_sizes"]) == (1e-5, [512, 256])
    assert run.data["augment"] == "crop:1,cutout:2" and "recipe.epochs=5" in command


def wandb_command(*words: str) -> subprocess.CompletedProcess[str]:
    """The command of W&B, which finds that of the zoo."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command, environment = [sys.executable, "-m", "wandb", *words], {**os.environ, "PATH": path}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, stdin=subprocess.DEVNULL)


@pytest.fixture
def service(own_wandb: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbSweepService]:
    """A service whose sweep has four trials, of which the last is stopped after two epochs."""
    lrs = (0.1, 0.03, 0.01, 0.003)
    trials = [{"recipe": {"lr": lr, "epochs": 100_000 if lr == lrs[-1] else 1}} for lr in lrs]
    service = WandbSweepService(trials, stop_after={3: 2})
    monkeypatch.setenv("WANDB_BASE_URL", service.url)
    yield service
    service.stop()


@pytest.mark.slow
def test_an_agent_of_wandb_runs_a_sweep(zoo, service: WandbSweepService) -> None:
    answer = zoo("search", "softmax", "--over", LR, "--over", "recipe.epochs=choice:1,100000", "--pruner", "asha", *QUICK,
                 "--wandb-sweep", "sweep.yaml")  # fmt: skip
    assert answer.code == 0
    made = wandb_command("sweep", "sweep.yaml")
    assert made.returncode == 0 and "wandb agent someone/bestiary/swept" in made.stderr, made.stderr
    assert service.config["early_terminate"]["type"] == "hyperband"
    agent = wandb_command("agent", "someone/bestiary/swept")
    assert agent.returncode == 0, agent.stderr

    assert list(service.runs) == ["trial0", "trial1", "trial2", "trial3"] and service.stopped[0] == "trial3"
    for number, (name, sent) in enumerate(service.runs.items()):
        assert (sent["groupName"], sent["jobType"], sent["displayName"]) == ("swept", "sweep", f"softmax-digits-{name}")
        config = {key: entry["value"] for key, entry in json.loads(sent["config"]).items() if key != "_wandb"}
        assert config["recipe"]["lr"] == service.trials[number]["recipe"]["lr"]
        assert config["recipe"]["optimizer"] == "sgd", "what was not sampled is there, too"
        logged = {key for row in service.history_of(name) for key in row}
        assert "val/accuracy" in logged and not [key for key in logged if key.startswith("test/")]
    runs = {run["name"]: run for run in json.loads(zoo("runs", "--json").out)}
    states = [runs[f"softmax-digits-trial{number}"]["state"] for number in range(4)]
    assert states == ["finished", "finished", "finished", "resumable"]
    assert all(run["test"] is None for run in runs.values())
    stopped = read_config("runs/softmax-digits-trial3/run.yaml")
    assert stopped["recipe"]["lr"] == 0.003 and RunFolder(Path("runs/softmax-digits-trial3")).last.exists()


NOTING = """
import json, os
from pathlib import Path
from torch import nn
from zoo import register_model
from zoo.tasks.classification import Classifier

@register_model("noting", task="classification", data="digits")
class Noting(Classifier):
    "A linear model that notes in each process what it was given."
    def __init__(self, spec, recipe, width: int = 1):
        super().__init__(spec, recipe)
        self.width, self.head = width, nn.Linear(64, len(spec.classes))
    def stages(self):
        return {"head": self.head}
    def forward(self, images):
        return self.head(images.flatten(1))
    def on_train_start(self):
        super().on_train_start()
        given = {"lr": self.recipe.lr, "width": self.width}
        Path(f"rank-{self.trainer.global_rank}.json").write_text(json.dumps(given))
"""


@pytest.mark.slow
def test_each_process_of_a_trial_has_what_was_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("noting.py").write_text(NOTING)
    Path("zoo_command.py").write_text("from zoo.cli import app; app()")  # the launcher needs a file that it can start again
    sampled = ["--recipe={'lr': 0.0314, 'epochs': 1}", "--model.width=7"]
    variables = {"WANDB_SWEEP_ID": "swept", "WANDB_RUN_ID": "trial5", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "zoo_command.py", "--plugin", "noting.py", "train", "noting", "--devices", "2", "--no-test"]
    answer = subprocess.run([*command, *QUICK, *sampled], env={**os.environ, **variables}, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    for rank in (0, 1):
        assert json.loads(Path(f"rank-{rank}.json").read_text()) == {"lr": 0.0314, "width": 7}
    assert [path.name for path in Path("runs").iterdir()] == ["noting-digits-trial5"]
