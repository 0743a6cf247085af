"""Every name of the registry keeps the zoo's contract, and a name that breaks it is found out."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.checks.contract import check_entry
from zoo.registry.registry import scan

REGISTRY = scan()
OFFLINE = [name for name, entry in REGISTRY.data.items() if "offline" in entry.tags]
# entries that differ only in depth have the same tiny variant: one of each is enough
DISTINCT = {repr((e.class_name, {**e.defaults, **e.tiny}, e.recipe)): name for name, e in REGISTRY.models.items()}


@pytest.mark.parametrize("name", sorted(DISTINCT.values()))
def test_every_model_keeps_the_contract(name: str) -> None:
    failed = [result for result in check_entry(REGISTRY, REGISTRY.model(name)) if not result.passed]
    assert not failed


@pytest.mark.parametrize("name", OFFLINE)
def test_every_embedded_data_set_keeps_the_contract(name: str) -> None:
    failed = [result for result in check_entry(REGISTRY, REGISTRY.data_set(name)) if not result.passed]
    assert not failed


def test_a_third_partys_model_and_data_keep_the_contract(plugin: Path) -> None:
    registry = scan()
    for entry in (registry.model("squeezenet"), registry.data_set("stripes")):
        assert not [result for result in check_entry(registry, entry) if not result.passed]


BROKEN = '''
import torch
from torch import nn
from zoo import register_model
from zoo.tasks.classification import Classifier

@register_model("broken", task="classification", data="digits")
class Broken(Classifier):
    """Breaks the contract in the way it is asked to."""
    def __init__(self, spec, recipe, fault: str = "FAULT"):
        super().__init__(spec, recipe)
        self.fault = fault
        self.linear = nn.Linear(64, len(spec.classes) - (fault == "width"))
        self.spare = nn.Linear(2, 2) if fault == "spare" else nn.Identity()
        self.norm = nn.BatchNorm1d(64, track_running_stats=fault != "mixing")
        self.offset = torch.randn(1) if fault == "unsaved" else 0
    def forward(self, images):
        features = self.norm(images.flatten(1))
        if self.fault == "shape":
            features = features[:-1]
        return self.linear(features + self.offset)
    def stages(self):
        if self.fault == "stages":
            return {"head": self.linear}
        return {"body": nn.ModuleList([self.norm, self.spare]), "head": self.linear}
'''


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("spare", "every parameter gets a gradient"),
        ("mixing", "samples of a batch do not mix in evaluation"),
        ("stages", "stages cover all parameters, the head last"),
        ("shape", "outputs fit the spec"),
        ("width", "outputs fit the spec"),
    ],
)
def test_a_broken_model_is_found_out(tmp_path: Path, fault: str, check: str) -> None:
    path = tmp_path / f"broken_{fault}.py"
    path.write_text(BROKEN.replace("FAULT", fault).replace('"broken"', f'"broken-{fault}"'))
    registry = scan([str(path)])
    results = {result.name: result.passed for result in check_entry(registry, registry.model(f"broken-{fault}"))}
    assert results[check] is False


def test_the_command_says_what_failed_and_exits_with_one(zoo, tmp_path: Path) -> None:
    path = tmp_path / "mine_broken.py"
    path.write_text(BROKEN.replace("FAULT", "spare").replace('"broken"', '"mine-broken"'))
    answer = zoo("--plugin", path, "check", "mine-broken")
    assert answer.code == 1 and "FAIL  every parameter gets a gradient: spare.weight gets no gradient" in answer.out
