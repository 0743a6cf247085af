"""The search: what is drawn, that nothing is lost whoever is killed, and that trials are judged as ``zoo train`` judges."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from zoo.api.search import plan_search
from zoo.config.resolution import resolve
from zoo.config.settings import read_config
from zoo.core.errors import UserError
from zoo.core.json_lines import read_json_lines
from zoo.registry.registry import scan
from zoo.studies import study as studies
from zoo.studies.plan import Search
from zoo.studies.points import POINT, TrialFailed, Worker, build_pruner, finished_points
from zoo.studies.space import grid_points, nested, read_space
from zoo.studies.study import StudyLocation, find, is_finished, open_or_create
from zoo.studies.trial import MetricRecorder

REGISTRY = scan()
EXPLODING = ["--set", "recipe.optimizer=sgd", "--set", "recipe.weight_decay=1"]  # at a rate of 1e30
QUICK = ["--epochs", "1", "--set", "trainer.limit_train_batches=4", "--set", "trainer.accelerator=cpu"]
LR = "recipe.lr=log:1e-4..1e-1"


def space(*texts: str) -> tuple:
    return read_space(list(texts), lambda layer: resolve(REGISTRY, "mlp", {}, [layer]))


def search_of(*texts: str, sampler: str = "random", seed: int = 0, metric: str = "accuracy") -> Search:
    base = resolve(REGISTRY, "mlp", {}, []).model_dump(mode="json")
    return Search(base, space(*texts), metric, "max", 1, sampler, seed)


def in_memory(search: Search, points: int, objective, name: str = "memory") -> list[optuna.trial.FrozenTrial]:
    """All trials of a search that one worker has gone through."""
    study = optuna.create_study(direction="maximize")
    Worker(study, StudyLocation(name), search, points).work(objective)
    return study.trials


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)


# ---------------------------------------------------------------------------------------------- what is drawn


def test_random_search_finds_more_where_one_key_matters_and_the_other_does_not() -> None:
    """Bergstra and Bengio (2012), figure 1: nine trials of a grid see three values of the key that matters."""
    keys = ("recipe.label_smoothing=uniform:0..0.99", "recipe.gamma=uniform:0.1..1")
    regret: dict[str, float] = {"random": 0.0, "grid": 0.0}
    for seed in range(20):
        optimum = random.Random(seed).uniform(0, 0.99)
        for sampler, points in (("random", ""), ("grid", ":3")):
            search = search_of(*(f"{key}{points}" for key in keys), sampler=sampler, seed=seed)
            trials = in_memory(search, 9, lambda _, values, best=optimum: -abs(values["recipe.label_smoothing"] - best))
            assert len(trials) == 9
            assert len({trial.params["recipe.label_smoothing"] for trial in trials}) == {"random": 9, "grid": 3}[sampler]
            regret[sampler] -= max(trial.value for trial in trials)
    assert regret["random"] < regret["grid"] / 1.5


def test_what_is_drawn_does_not_depend_on_who_draws_or_on_what_went_before() -> None:
    search = search_of(LR, "model.dropout=uniform:0..0.5", "recipe.batch_size=uniform:16..64")
    at_once = [trial.params for trial in in_memory(search, 8, lambda *_: 0.0)]
    study = optuna.create_study(direction="maximize")
    for points in (3, 8):  # stopped after three, and started again
        Worker(study, StudyLocation("again"), search, points).work(lambda *_: 0.0)
    assert [trial.params for trial in study.trials] == at_once
    lrs, dropouts = ([params[key] for params in at_once] for key in ("recipe.lr", "model.dropout"))
    assert len(set(lrs)) == len(set(dropouts)) == 8
    positions = [(dropout / 0.5, math.log10(lr / 1e-4) / 3) for lr, dropout in zip(lrs, dropouts, strict=True)]
    assert any(abs(one - other) > 0.1 for one, other in positions), "two keys of a trial must not share their draw"
    other = [trial.params for trial in in_memory(search_of(LR, seed=1), 8, lambda *_: 0.0)]
    assert not {params["recipe.lr"] for params in other} & set(lrs)


def test_draws_lie_in_the_range_in_the_type_of_the_key_and_evenly_in_the_logarithm() -> None:
    texts = (LR, "recipe.batch_size=log:8..512", "model.dropout=uniform:0..0.5", "model.hidden_sizes=choice:[64],[512,256]")
    seen: list[dict[str, Any]] = []
    in_memory(search_of(*texts), 200, lambda _, values: float(bool(seen.append(values))))
    assert all(1e-4 <= v["recipe.lr"] <= 1e-1 and 0 <= v["model.dropout"] <= 0.5 for v in seen)
    assert {type(v["recipe.batch_size"]) for v in seen} == {int} and {type(v["recipe.lr"]) for v in seen} == {float}
    # a third of the logarithmic range each, with four standard deviations of room
    assert all(abs(sum(10**-e < v["recipe.lr"] < 10 ** (1 - e) for v in seen) - 200 / 3) < 27 for e in (4, 3, 2))
    assert {json.dumps(v["model.hidden_sizes"]) for v in seen} == {"[64]", "[512, 256]"}


def test_tpe_searches_where_it_was_good() -> None:
    keys = ("recipe.label_smoothing=uniform:0..0.99", "recipe.gamma=uniform:0.1..1")
    distance = {}
    for sampler in ("random", "tpe"):
        trials = in_memory(search_of(*keys, sampler=sampler), 40, lambda _, values: -abs(values["recipe.label_smoothing"] - 0.3))
        distance[sampler] = -sum(trial.value for trial in trials[10:])  # the first ten are random
    assert distance["tpe"] < 0.8 * distance["random"]


def test_an_argument_of_the_optimizer_is_searched_as_any_key() -> None:
    (eps,) = space("recipe.optimizer_args.eps=log:1e-9..1e-6")
    assert (eps.low, eps.high) == (1e-9, 1e-6)
    seen: list[dict[str, Any]] = []
    in_memory(search_of(f"{eps.key}={eps.text}"), 3, lambda _, values: float(bool(seen.append(values))))
    runs = [resolve(REGISTRY, "mlp", {}, [nested(values)]) for values in seen]
    assert [run.recipe.optimizer_args["eps"] for run in runs] == [values[eps.key] for values in seen]


def test_a_choice_is_interpreted_by_the_type_of_its_key_and_quotes_hold_commas() -> None:
    texts = ("recipe.precision=choice:16,32", 'data.augment=choice:none,"crop:1,cutout:2"', "recipe.epochs=choice:3,'4'")
    weights = "recipe.weights=choice:2024_01,no,photos #1,'it''s'"
    dimensions = space(*texts, weights)
    assert [dimension.ends() for dimension in dimensions] == [
        ["16", "32"], ["none", "crop:1,cutout:2"], [3, 4], ["2024_01", "no", "photos #1", "it's"]
    ]  # fmt: skip
    planned, _ = plan_search("mlp", {"recipe.weights": ["2024_01", "a,b"], "recipe.epochs": [1, 2]}, "", epochs=None, settings=(),
                             sampler="random", pruner="none", metric="", folds=1, seed=0, workers=1, trials=1)  # fmt: skip
    assert [dimension.ends() for dimension in planned.space] == [["2024_01", "a,b"], [1, 2]]


def test_a_grid_is_every_combination_once_in_the_order_of_the_seed() -> None:
    texts = (
        "recipe.lr=log:1e-4..1e-1:4",
        "recipe.batch_size=uniform:16..64:3",
        "recipe.decay_norms_and_biases=choice:true,false",
    )
    trials = in_memory(search_of(*texts, sampler="grid"), 24, lambda *_: 0.0)
    values = {
        (round(t.params["recipe.lr"], 9), t.params["recipe.batch_size"], t.params["recipe.decay_norms_and_biases"])
        for t in trials
    }
    expected = {(lr, size, flag) for lr in (1e-4, 1e-3, 1e-2, 1e-1) for size in (16, 40, 64) for flag in ("true", "false")}
    assert values == expected and len(trials) == 24
    first, other = (grid_points(space(*texts), seed) for seed in (0, 1))
    assert first != other and first == grid_points(space(*texts), 0)
    assert space("recipe.epochs=uniform:3..6")[0].grid() == (3, 4, 5, 6), "whole numbers need no number of points"


def test_bad_trials_are_stopped_and_failed_ones_counted_with_their_reason() -> None:
    def objective(trial: optuna.Trial, values: dict[str, Any]) -> float:
        if trial.number == 8:
            raise TrialFailed("the loss is nan")
        for step in (1, 2, 3):
            trial.report(float(trial.number < 6), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return float(trial.number < 6)

    study = optuna.create_study(direction="maximize", pruner=build_pruner("median"))
    Worker(study, StudyLocation("median"), search_of(LR), 10).work(objective)
    states = [trial.state for trial in study.trials]
    assert states == [*[TrialState.COMPLETE] * 6, TrialState.PRUNED, TrialState.PRUNED, TrialState.FAIL, TrialState.PRUNED]
    assert all(map(is_finished, study.trials)) and study.trials[8].user_attrs["reason"] == "the loss is nan"


# ---------------------------------------------------------------------------------------------- nothing is lost

WORKER = """
import os, sys, time
from pathlib import Path
from zoo.registry.registry import scan
from zoo.studies.points import Worker
from zoo.studies.study import StudyLocation, find

def objective(trial, values):
    trial.set_user_attr("pid", os.getpid())
    time.sleep(0.05)
    while Path("hold").exists():
        time.sleep(0.01)
    return values["recipe.lr"]

location = StudyLocation("killed", sys.argv[1])
search, study = find(location, scan())
Worker(study, location, search, 24).work(objective)
"""


def running(study: optuna.Study) -> set[int]:
    """The processes that are at a trial."""
    return {t.user_attrs["pid"] for t in study.get_trials() if t.state is TrialState.RUNNING and "pid" in t.user_attrs}


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_workers_lose_nothing_and_count_nothing_twice() -> None:
    search = search_of("recipe.lr=log:1e-4..1e-1:8", "recipe.optimizer=choice:sgd,adam,adamw", sampler="grid")
    study = open_or_create(StudyLocation("killed"), search)

    def start() -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", WORKER, ""])

    Path("hold").touch()
    workers = [start(), start()]
    wait_for(lambda: running(study) == {worker.pid for worker in workers}, "both workers are at a trial")
    for worker in workers:
        worker.kill()
        worker.wait()
    Path("hold").unlink()
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING] * 2
    workers, chance = [start(), start()], random.Random(0)
    finished: dict[int, float] = {}
    for round_ in range(3):
        # a kill wherever the worker happens to be: between two trials, in one, or in a line of the journal
        since = len(finished)
        wait_for(lambda since=since: len(finished_points(study, 24)) > since + 2, "the workers go on")
        time.sleep(chance.uniform(0, 0.1))
        victim = workers[round_ % 2]
        victim.kill()
        victim.wait()
        finished = {trial.number: trial.value for trial in study.trials if is_finished(trial)}
        workers[round_ % 2] = start()
    for worker in workers:
        assert worker.wait(timeout=60) == 0
    trials = study.trials
    assert finished.items() <= {trial.number: trial.value for trial in trials if is_finished(trial)}.items()
    done = [(trial.params["recipe.lr"], trial.params["recipe.optimizer"]) for trial in trials if is_finished(trial)]
    assert len(done) == 24 == len(set(done)), "each point of the grid once"
    lost = [trial for trial in trials if trial.state is TrialState.FAIL]
    assert {trial.number for trial in lost} >= {0, 1} and len(trials) == 24 + len(lost)
    assert all((trial.params["recipe.lr"], trial.params["recipe.optimizer"]) in done for trial in lost if len(trial.params) == 2)


def test_a_trial_whose_worker_died_before_it_had_put_its_name_on_it_is_lost_too() -> None:
    location, search = StudyLocation("nameless"), search_of(LR)
    study = open_or_create(location, search)
    study.enqueue_trial({}, user_attrs={POINT: 0})
    study.ask()  # and then nothing
    Worker(study, location, search, 1).work(lambda *_: 1.0)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_what_a_lost_trial_tried_is_tried_again_by_a_sampler_with_a_memory_too() -> None:
    location, search = StudyLocation("memory"), search_of(LR, sampler="tpe")
    study = open_or_create(location, search)

    def interrupted_at_12(trial: optuna.Trial, values: dict[str, Any]) -> float:
        if trial.number == 12:
            raise KeyboardInterrupt
        return values["recipe.lr"]

    with pytest.raises(KeyboardInterrupt):
        Worker(study, location, search, 13).work(interrupted_at_12)
    first, lost = study.trials[0], study.trials[12]
    # meanwhile another worker has found something out
    study.add_trial(
        optuna.trial.create_trial(
            value=9.0, params={"recipe.lr": 2e-4}, distributions=first.distributions, user_attrs={POINT: 13}
        )
    )
    Worker(study, location, search, 14).work(lambda _, values: values["recipe.lr"])
    again = study.trials[-1]
    assert lost.state is TrialState.FAIL and again.state is TrialState.COMPLETE and again.params == lost.params


def test_in_a_database_a_silent_trial_is_lost_and_a_late_answer_does_no_harm(monkeypatch) -> None:
    monkeypatch.setattr(studies, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(studies, "SILENCE_SECONDS", 2)
    location, search = StudyLocation("silent", "sqlite:///study.db"), search_of(LR)
    study = open_or_create(location, search)
    study.enqueue_trial({}, user_attrs={POINT: 0})
    with pytest.warns(UserWarning, match="Heartbeat"):
        silent = study.ask()
    silent.set_user_attr("worker", "another machine")
    study._storage.record_heartbeat(silent._trial_id)
    Worker(study, location, search, 2).work(lambda *_: 1.0)  # waits until the silence is long enough
    states = [trial.state for trial in study.trials]
    assert sorted(state.name for state in states) == ["COMPLETE", "COMPLETE", "FAIL"]

    def taken_away(trial: optuna.Trial, values: dict[str, Any]) -> float:
        if trial.user_attrs[POINT] == 2 and len(study.trials) == 4:
            study.tell(trial.number, state=TrialState.FAIL)  # as another machine does after a silence
        return 1.0

    Worker(study, location, search, 3).work(taken_away)
    assert len(finished_points(study, 3)) == 3 and [trial.state for trial in study.trials[-2:]] == [
        TrialState.FAIL,
        TrialState.COMPLETE,
    ]


def test_two_machines_at_one_point_count_it_once() -> None:
    location, search = StudyLocation("twice", "sqlite:///study.db"), search_of(LR)
    study = open_or_create(location, search)
    for _ in range(2):  # both looked before either wrote
        study.enqueue_trial({}, user_attrs={POINT: 0})
    Worker(study, location, search, 1).work(lambda *_: 1.0)
    Worker(study, location, search, 2).work(lambda *_: 1.0)
    assert [t.user_attrs[POINT] for t in study.trials if is_finished(t)] == [0, 1]


def test_half_a_line_in_the_journal_is_cut_off_and_the_rest_kept() -> None:
    location, search = StudyLocation("torn"), search_of(LR)
    Worker(open_or_create(location, search), location, search, 2).work(lambda _, values: values["recipe.lr"])
    with location.journal.open("ab") as file:
        file.write(b'{"op_code": 6, "wor')
    study = open_or_create(location, search)
    Worker(study, location, search, 3).work(lambda _, values: values["recipe.lr"])
    assert len(open_or_create(location, search).trials) == 3 == len(finished_points(study, 3))


# ---------------------------------------------------------------------------------------------- the command


def test_a_search_is_judged_on_validation_and_its_best_run_trains_to_the_same(zoo) -> None:
    arguments = [
        "search",
        "mlp",
        *QUICK,
        "--over",
        "recipe.lr=log:1e-3..1e-1",
        "--over",
        "model.hidden_sizes=choice:[16],[64,32]",
    ]
    answer = zoo(*arguments, "--trials", "3", "--name", "first")
    assert answer.code == 0, answer.err
    folder = Path("searches/first")
    assert answer.out.splitlines()[-1] == "next: zoo train --config searches/first/best.yaml"
    assert (folder / "search.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    table = [line.split() for line in answer.out.splitlines()[1:4]]
    values = [float(row[1]) for row in table]
    assert values == sorted(values, reverse=True)
    records = [record for file in folder.glob("trials/*/metrics.jsonl") for record in read_json_lines(file)]
    assert records and not any("test/" in key for record in records for key in record)
    best = int(table[0][0])
    assert [path.parent.parent.name for path in folder.glob("trials/*/checkpoints/best.ckpt")] == [f"{best:03}"]

    assert zoo("train", "--config", folder / "best.yaml", "--name", "again").code == 0
    accuracy = max(record.get("val/accuracy", 0) for record in read_json_lines(Path("runs/again/metrics.jsonl")))
    told = json.loads(zoo("search", "mlp", "--name", "first", "--show", "--json").out)
    assert told["trials"][0]["accuracy"] == accuracy and told["trials"][0]["trial"] == best
    assert read_config(folder / "best.yaml")["recipe"]["lr"] == told["trials"][0]["parameters"]["recipe.lr"]

    goes_on = zoo(*arguments, "--trials", "4", "--name", "first")
    assert "continuing study first: 3 of 4 trials are finished" in goes_on.err.replace("'", "")
    assert len(goes_on.out.splitlines()) == 4 + 4 and "trial 3" in goes_on.err and "trial 2" not in goes_on.err


def test_folds_are_those_of_zoo_train_and_a_trial_is_their_mean(zoo) -> None:
    answer = zoo("search", "softmax", *QUICK, "--over", "recipe.lr=choice:0.01", "--trials", "1", "--folds", "3", "--json")
    (trial,) = json.loads(answer.out)["trials"]
    assert trial["accuracy"] == pytest.approx(sum(trial["folds"]) / 3)
    for fold in (1, 2, 3):
        name, held_out = f"fold-{fold}", f"data.validation={fold}/3"
        assert zoo("train", "softmax", *QUICK, "--set", "recipe.lr=0.01", "--set", held_out, "--name", name).code == 0
        (accuracy,) = [r["val/accuracy"] for r in read_json_lines(Path("runs", name, "metrics.jsonl")) if "val/accuracy" in r]
        assert trial["folds"][fold - 1] == accuracy
    assert len(set(trial["folds"])) > 1
    assert read_config("searches/softmax-digits/best.yaml")["data"]["validation"] == 0.1
    assert "spread" in zoo("search", "softmax", "--show").out


def test_a_trial_that_diverges_fails_with_its_reason_and_the_others_go_on(zoo) -> None:
    answer = zoo("search", "softmax", *QUICK, *EXPLODING, "--over", "recipe.lr=choice:1e30,0.01,0.1",
                 "--sampler", "grid", "--metric", "loss", "--json")  # fmt: skip
    trials = json.loads(answer.out)["trials"]
    assert [trial["state"] for trial in trials] == ["complete", "complete", "failed"]
    assert trials[0]["loss"] < trials[1]["loss"], "less is better"
    assert "recipe.lr" in trials[2]["reason"] and "--resume" not in trials[2]["reason"]


def test_a_search_of_which_nothing_comes_says_so(zoo) -> None:
    answer = zoo("search", "softmax", *QUICK, *EXPLODING, "--over", "recipe.lr=choice:1e30", "--trials", "2")
    assert (
        answer.code == 2 and "all trials of study" in answer.err.splitlines()[-1] and answer.out.count("failed: the loss is") == 2
    )
    assert not Path("searches/softmax-digits/best.yaml").exists()


def test_values_that_do_not_go_together_fail_a_trial_only(zoo, tmp_path: Path) -> None:
    path = tmp_path / "picky.py"
    path.write_text(
        "from torch import nn\nfrom zoo import register_model\nfrom zoo.tasks.classification import Classifier\n"
        "@register_model('picky', task='classification', data='digits', recipe={'epochs': 1})\n"
        "class Picky(Classifier):\n    'Picky.'\n"
        "    def __init__(self, spec, recipe, a: int = 0, b: int = 0):\n        super().__init__(spec, recipe)\n"
        "        if a and b:\n            raise ValueError('a and b exclude each other')\n"
        "        self.linear = nn.Linear(64, 10)\n"
        "    def forward(self, images):\n        return self.linear(images.flatten(1))\n"
    )
    answer = zoo("--plugin", path, "search", "picky", *QUICK, "--over", "model.a=choice:0,1", "--over", "model.b=choice:0,1",
                 "--sampler", "grid", "--json")  # fmt: skip
    trials = json.loads(answer.out)["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 3 + ["failed"]
    assert trials[3]["parameters"] == {"model.a": 1, "model.b": 1} and "exclude" in trials[3]["reason"]


def test_an_interrupted_search_keeps_what_is_finished_and_the_same_command_goes_on(zoo, monkeypatch) -> None:
    arguments = ["search", "softmax", "--epochs", "3", "--over", LR, "--trials", "2"]
    judged = MetricRecorder.on_train_epoch_end

    def interrupting(self: MetricRecorder, *others: Any) -> None:
        judged(self, *others)
        if self.trial.number == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(MetricRecorder, "on_train_epoch_end", interrupting)
        answer = zoo(*arguments)
    assert answer.code == 130 and not answer.out
    assert answer.err.splitlines()[-1] == (
        f"interrupted; 1 finished trials are kept. To continue: zoo search softmax --epochs 3 --over {LR} --trials 2"
    )
    states = [trial["state"] for trial in json.loads(zoo(*arguments, "--json").out)["trials"]]
    assert states == ["complete", "complete", "lost; retried"]


def test_a_full_disk_ends_the_search_and_keeps_what_is_finished(zoo, monkeypatch) -> None:
    import torch

    arguments = ["search", "softmax", *QUICK, "--over", LR, "--trials", "3"]
    saves, save = [], torch.save

    def full(*what: Any, **how: Any) -> None:
        saves.append(1)
        if len(saves) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(*what, **how)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        answer = zoo(*arguments)
    assert answer.code == 2 and "No space left" in answer.err.splitlines()[-1] and "Traceback" not in answer.err
    before = {t["trial"]: t for t in json.loads(zoo("search", "softmax", "--show", "--json").out)["trials"]}
    finished = {number for number, trial in before.items() if trial["state"] == "complete"}
    assert finished
    after = {t["trial"]: t for t in json.loads(zoo(*arguments, "--json").out)["trials"]}
    assert all(after[number] == before[number] for number in finished)
    assert sum(trial["state"] == "complete" for trial in after.values()) == 3


def test_a_database_that_goes_away_is_one_line(zoo, monkeypatch) -> None:
    judged = MetricRecorder.on_train_epoch_end

    def breaking(self: MetricRecorder, *others: Any) -> None:
        Path("s.db").unlink(missing_ok=True)
        judged(self, *others)

    monkeypatch.setattr(MetricRecorder, "on_train_epoch_end", breaking)
    answer = zoo("search", "softmax", *QUICK, "--over", LR, "--storage", "sqlite:///s.db")
    assert answer.is_one_line_error("--storage sqlite:///s.db: ", "readonly database")


@pytest.mark.slow
def test_several_workers_share_one_study(zoo) -> None:
    answer = zoo("search", "softmax", *QUICK, "--over", LR, "--trials", "4", "--workers", "2", "--json")
    assert answer.code == 0, answer.err
    trials = json.loads(answer.out)["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 4
    alone = json.loads(zoo("search", "softmax", *QUICK, "--over", LR, "--trials", "4", "--name", "alone", "--json").out)["trials"]
    key = "recipe.lr"
    together, apart = ({t["parameters"][key]: t["accuracy"] for t in each} for each in (trials, alone))
    assert together.keys() == apart.keys()
    assert together == pytest.approx(apart, abs=0.02)  # another number of threads adds in another order
    assert "4/4 done" in answer.err


def test_several_gpus_are_shared_out_by_name_and_one_is_left_alone(monkeypatch) -> None:
    import torch

    from zoo.studies.workers import visible_devices

    for named, count, expected in (
        (None, 3, ["0", "1", "2"]),
        ("5,7", 2, ["5", "7"]),
        ("5", 1, []),
        (None, 1, []),
        (None, 0, []),
    ):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if named:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert visible_devices() == expected


@pytest.mark.slow
def test_a_database_holds_several_studies(zoo) -> None:
    for name in ("one", "two"):
        answer = zoo("search", "softmax", *QUICK, "--over", LR, "--trials", "1", "--name", name, "--storage", "sqlite:///s.db")
        assert answer.code == 0, answer.err
    assert not Path("searches/one/study.journal").exists()
    shown = zoo("search", "softmax", "--show", "--name", "two", "--storage", "sqlite:///s.db")
    assert len(shown.out.splitlines()) == 5 and "Warning" not in shown.err
    assert zoo("search", "softmax", "--show", "--name", "tow", "--storage", "sqlite:///s.db").is_one_line_error("'two'")


# ---------------------------------------------------------------------------------------------- mistakes

OVER = ["--over", LR]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["nothing to search over", "--over recipe.lr=log:1e-4..1e-1"]),
        (["--over", "recipe.lrr=log:1e-3..1"], ["no recipe key 'lrr'", "'lr'"]),
        (["--over", "model.droput=uniform:0..0.5"], ["no option of mlp 'droput'", "'dropout'"]),
        (["--over", "recip.lr=log:1e-3..1"], ["no section 'recip'", "'recipe'"]),
        (["--over", "model.name=choice:mlp,vgg11"], ["one model"]),
        (["--over", "recipe.lr"], ["recipe.lr: write it as KEY=log:LOW..HIGH"]),
        (["--over", "recipe.lr=1e-3..1"], ["write it as"]),
        (["--over", "recipe.lr=log:1e-3-1"], ["write it as"]),
        (["--over", "recipe.lr=lgo:1e-3..1"], ["no kind of range 'lgo'", "'log'"]),
        (["--over", "recipe.lr=log:a..1"], ["'a' is not a number"]),
        (["--over", "recipe.lr=log:1..inf"], ["'inf' is not finite"]),
        (["--over", "recipe.lr=log:1..1e-3"], ["the low end, 1, must be below the high end, 0.001"]),
        (["--over", "recipe.lr=uniform:1..1"], ["must be below"]),
        (["--over", "recipe.lr=log:0..1"], ["above 0"]),
        (["--over", "recipe.lr=uniform:0..1"], ["recipe.lr=0", "greater than 0"]),
        (["--over", "recipe.epochs=uniform:0.5..3"], ["recipe.epochs=0.5", "integer"]),
        (["--over", "recipe.optimizer=choice:sgd,adm"], ["no optimizer 'adm'", "'adam'"]),
        (["--over", "recipe.optimizer=uniform:0..1"], ["recipe.optimizer=0"]),
        (["--over", "recipe.decay_norms_and_biases=uniform:0..1"], ["takes no numbers"]),
        (["--over", "model.dropout=uniform:0..1"], ["model.dropout=1"]),
        (["--over", "recipe.lr=choice:1,,2"], ["a choice is empty"]),
        (["--over", "recipe.lr=choice:1,1"], ["1 is given twice"]),
        (["--over", "model.hidden_sizes=choice:[64,[32]"], ["YAML"]),
        ([*OVER, *OVER], ["recipe.lr is given twice"]),
        ([*OVER, "--set", "recipe.lr=1"], ["both set and searched"]),
        ([*OVER, "--trials", "0"], ["--trials 0"]),
        ([*OVER, "--trials", "many"], ["--trials many"]),
        ([*OVER, "--workers", "0"], ["--workers 0"]),
        ([*OVER, "--folds", "0"], ["--folds 0"]),
        ([*OVER, "--folds", "500"], ["a class has only"]),
        ([*OVER, "--sampler", "grd"], ["no sampler 'grd'", "'grid'"]),
        ([*OVER, "--sampler", "grid"], ["a grid needs a number of points", "recipe.lr=log:1e-4..1e-1:4"]),
        (["--over", f"{LR}:1", "--sampler", "grid"], ["2 or more"]),
        (["--over", f"{LR}:4"], ["--sampler grid"]),
        (["--over", f"{LR}:1000", "--over", "model.dropout=uniform:0..0.5:1000", "--sampler", "grid"], ["1,000,000 points"]),
        ([*OVER, "--pruner", "medain"], ["no pruner 'medain'", "'median'"]),
        ([*OVER, "--metric", "acuracy"], ["no metric 'acuracy'", "'accuracy'"]),
        ([*OVER, "--name", "a/b"], ["plain name"]),
        ([*OVER, "--set", "trainer.devices=2"], ["--workers"]),
        ([*OVER, "--storage", "nonsense"], ["--storage nonsense"]),
        ([*OVER, "--storage", "mysql://u:secret@127.0.0.1:1/x"], ["mysql://u:***@127.0.0.1:1/x", "pip install"]),
        ([*OVER, "--storage", "sqlite:////no/such/folder/x.db"], ["unable to open database file"]),
        ([*OVER, "--show"], ["--show"]),
        (["--show", "--name", "nope"], ["no study 'nope'"]),
        ([*OVER, "--wandb-sweep", "s.yaml", "--folds", "2"], ["--folds"]),
        ([*OVER, "--wandb-sweep", "s.yaml", "--pruner", "median"], ["hyperband"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_one_line_and_leave_nothing(zoo, arguments: list[str], words: list[str]) -> None:
    answer = zoo("search", "mlp", *arguments)
    assert answer.is_one_line_error(*words), (answer.err, answer.out)
    assert "secret" not in answer.err
    assert not list(Path().glob("searches/*/trials")) and not Path("runs").exists() and not Path("s.yaml").exists()


@pytest.mark.slow
def test_a_study_of_something_else_is_not_gone_on_with(zoo) -> None:
    base = ["search", "softmax", "--name", "s", "--trials", "1"]
    assert zoo(*base, *QUICK, *OVER).code == 0
    kept = Path("searches/s/study.journal").read_bytes()
    others = {
        "recipe.batch_size=7 (was 128)": ["--set", "recipe.batch_size=7", *OVER],
        "--over recipe.lr=log:1e-5..1e-1 (was log:1e-4..1e-1)": ["--over", "recipe.lr=log:1e-5..1e-1"],
        "--over recipe.gamma=uniform:0.1..1 (was not given)": [*OVER, "--over", "recipe.gamma=uniform:0.1..1"],
        "--metric loss (was accuracy)": [*OVER, "--metric", "loss"],
        "--folds 2 (was 1)": [*OVER, "--folds", "2"],
        "--sampler tpe (was random)": [*OVER, "--sampler", "tpe"],
        "--seed 1 (was 0)": [*OVER, "--seed", "1"],
        "data.size=16 (was 0)": [*OVER, "--set", "data.size=16"],
    }
    for difference, arguments in others.items():
        assert zoo(*base, *QUICK, *arguments).is_one_line_error("'s' is another search", difference, "--name NEW"), difference
    answer = zoo("search", "mlp", *QUICK, *OVER, "--name", "s")
    assert answer.is_one_line_error("model.name=mlp (was softmax)")
    assert Path("searches/s/study.journal").read_bytes() == kept
    assert zoo(*base, *QUICK, *OVER, "--pruner", "median", "--set", "wandb.mode=off").code == 0, "that changes no trial"


def test_a_study_of_which_nothing_has_come_is_started_anew(zoo) -> None:
    wrong = zoo("search", "softmax", *QUICK, *OVER, "--metric", "accuracy_top5", "--trials", "1")
    assert (
        wrong.is_one_line_error("val/accuracy_top5 is not measured", "accuracy, balanced_accuracy, f1_macro, loss")
        and "--resume" not in wrong.err
    )
    assert zoo("search", "softmax", *QUICK, *OVER, "--trials", "1").code == 0


def test_a_damaged_journal_is_one_line_and_stays_as_it_is(zoo) -> None:
    journal = Path("searches/softmax-digits/study.journal")
    journal.parent.mkdir(parents=True)
    for content in ("no journal\n", "{}\n", '{"op_code": 99, "worker_id": "x"}\n', "[1]\n"):
        journal.write_text(content)
        assert zoo("search", "softmax", *QUICK, *OVER).is_one_line_error(str(journal), "damaged", "--name"), content
        assert journal.read_text() == content


def test_a_place_that_cannot_be_written_is_one_line(zoo) -> None:
    Path("searches").write_text("a file")
    assert zoo("search", "softmax", *QUICK, *OVER).is_one_line_error("searches")


def test_a_study_of_another_program_is_left_alone(zoo) -> None:
    optuna.create_study(storage="sqlite:///s.db", study_name="theirs").optimize(lambda trial: trial.suggest_float("x", 0, 1), 1)
    answer = zoo("search", "softmax", *QUICK, *OVER, "--storage", "sqlite:///s.db", "--name", "theirs")
    assert answer.is_one_line_error("'theirs'", "not created by zoo search")


def test_names_and_ranges_are_answered_before_anything_heavy_is_imported() -> None:
    code = (
        "import sys\nfrom zoo.cli import app\n"
        "for words in (['mpl'], ['mlp'], ['mlp', '--over', 'recipe.lrr=log:1e-3..1'], ['mlp', '--over', 'recipe.lr=log:2..1']):\n"
        "    sys.argv = ['zoo', 'search', *words]\n"
        "    try: app()\n"
        "    except SystemExit as stop: assert stop.code == 2\n"
        "assert not {'torch', 'optuna', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_plan_that_was_kept_is_the_same_search() -> None:
    location, search = StudyLocation("kept"), search_of(LR, "model.hidden_sizes=choice:[64],[512,256]", seed=3)
    open_or_create(location, search)
    assert find(location, REGISTRY)[0] == search
    with pytest.raises(UserError, match="kept"):
        find(StudyLocation("ketp"), REGISTRY)
