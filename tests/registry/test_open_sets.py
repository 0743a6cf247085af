"""A plugin file brings an optimizer, a loss, an augmentation, a derived model; a run remembers the file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.core.errors import UserError
from zoo.registry.registry import scan

INGREDIENTS = (Path(__file__).parents[1] / "plugin" / "squeezenet_zoo" / "ingredients.py").read_text()
DERIVED = '''
from zoo import register_model
from zoo.models.resnet import RECIPE, RESIDUAL, ResNet


@register_model("mine", task="classification", data="digits", depth=8, tags=[*RESIDUAL, "own"], recipe={**RECIPE, "epochs": 1})
class Mine(ResNet):
    """My residual network."""
'''
QUICK = ("--epochs", "1", "--set", "trainer.limit_train_batches=4", "--set", "trainer.monitor_every_n_steps=0")
EACH = (
    "--set", "recipe.optimizer=lion", "--set", "recipe.optimizer_args.betas=[0.9,0.95]", "--set", "recipe.loss=softmax-focal",
    "--set", "recipe.loss_args.gamma=1", "--set", "data.augment=crop:1,gray:0.2",
)  # fmt: skip


@pytest.fixture
def ingredients(workplace: Path) -> Path:
    path = workplace / "ingredients.py"
    path.write_text(INGREDIENTS)
    return path


def test_what_a_plugin_brings_is_listed_without_being_run(zoo, ingredients: Path) -> None:
    ingredients.write_text(INGREDIENTS + "\nraise SystemExit('this file was run')\n")
    for option, name, arguments in (
        ("--optimizers", "lion", {"betas": [0.9, 0.99]}),
        ("--losses", "softmax-focal", {"gamma": 2.0}),
        ("--augmentations", "gray", {"probability": 0.5}),
    ):
        (entry,) = json.loads(zoo("--plugin", ingredients, "list", option, name, "--json").out)
        assert {each["name"]: each["default"] for each in entry["options"]} == arguments
        assert name in zoo("--plugin", ingredients, "list", option).out
    assert zoo("list", "--optimizers", "best").is_one_line_error("no optimizer 'best'", "zoo list --optimizers")
    error = zoo("--plugin", ingredients, "train", "mlp", "--set", "recipe.optimizer=lionn")
    assert error.is_one_line_error("no optimizer 'lionn': did you mean 'lion'?")


def test_an_installed_package_brings_them_too(plugin: Path) -> None:
    registry = scan()
    for kind, name in (("optimizer", "lion"), ("loss", "softmax-focal"), ("augmentation", "gray")):
        assert registry.find(kind, name).origin == "squeezenet-zoo 1.2.0"
        assert registry.find(kind, name).load().__module__ == "squeezenet_zoo.ingredients"


def test_a_run_of_somebody_else_runs_no_code(ingredients: Path) -> None:
    for plugin in ("ingredients.py", str(ingredients)):
        with pytest.raises(UserError, match=f"run first needs the plugin {plugin}: if you trust that file, pass it with"):
            scan().add_plugins_of("run first", [plugin])
    assert "lion" not in scan().entries("optimizer")
    scan([str(ingredients)])
    registry = scan()
    registry.add_plugins_of("run first", [str(ingredients)])
    assert "lion" in registry.entries("optimizer")


def test_a_run_remembers_its_plugins(zoo, ingredients: Path) -> None:
    trained = zoo("--plugin", ingredients.name, "train", "mlp", *QUICK, *EACH, "--name", "first")
    assert trained.code == 0, trained.err
    settings = Path("runs/first/run.yaml").read_text()
    assert str(ingredients) in settings and "gamma: 1.0" in settings
    assert zoo("test", "first").code == 0
    assert zoo("train", "--resume", "first").code == 0
    assert zoo("train", "--config", "runs/first/run.yaml", "--name", "second").code == 0
    moved = ingredients.rename(ingredients.with_suffix(".bak"))
    for command in (("test", "first"), ("train", "--resume", "first")):
        assert zoo(*command).is_one_line_error(
            "run first needs the plugin", "ingredients.py, which is missing", "zoo --plugin NEW/ingredients.py"
        )
    assert zoo("report", "first").code == 0  # as far as it can be shown
    assert "run first needs the plugin" in Path("runs/first/report.html").read_text()
    (ingredients.parent / "new").mkdir()
    place = moved.rename(ingredients.parent / "new" / "ingredients.py")
    assert zoo("--plugin", place, "test", "first").code == 0


def test_an_optimizer_without_init_takes_the_arguments_of_its_base(ingredients: Path) -> None:
    entry = scan([str(ingredients)]).find("optimizer", "slow")
    assert entry.defaults["momentum"] == 0.99 and {"nesterov", "dampening"} <= entry.defaults.keys()
    assert not {"params", "lr", "weight_decay"} & entry.defaults.keys()


def test_a_model_may_derive_from_ours_without_init(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(DERIVED)
    code = (
        f"import sys; from zoo import scan; entry = scan([{str(path)!r}]).model('mine')\n"
        "assert entry.defaults['depth'] == 8 and entry.defaults['width'] == 16 and entry.recipe['epochs'] == 1\n"
        "assert entry.recipe['optimizer'] == 'sgd' and entry.tags == ('cnn', 'residual', 'own')\n"
        "assert all(option.help for option in entry.options) and not entry.partial\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_cannot_be_read_is_taken_from_the_class_when_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(DERIVED.replace('"epochs": 1', '"epochs": min(3, 4)').replace('"mine"', '"clever"'))
    registry = scan([str(path)])
    listed = registry.models["clever"]
    assert listed.partial and listed.summary == "My residual network." and listed.recipe == {}
    used = registry.model("clever")
    assert used.recipe["epochs"] == 3 and not used.partial and used.origin == str(path)
    path = tmp_path / "wrong.py"
    path.write_text(DERIVED.replace('"mine"', '"wrong"').replace("depth=8", "depht=max(8, 2)"))
    with pytest.raises(UserError, match="'wrong' .* cannot be imported: .*'depht'"):
        scan([str(path)]).model("wrong")


def test_callbacks_come_by_the_entry_point_of_lightning(zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "callbackzoo-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: callbackzoo\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[lightning.pytorch.callbacks_factory]\nit = callback_zoo_module:make\n")
    (tmp_path / "callback_zoo_module.py").write_text(
        "from pathlib import Path\nfrom lightning.pytorch.callbacks import LambdaCallback\n\n"
        "def make():\n    return LambdaCallback(on_train_end=lambda trainer, module: Path('ended').touch())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert zoo("train", "softmax", *QUICK, "--name", "called").code == 0
    assert Path("ended").exists()


def test_check_takes_the_place_of_files(zoo, workplace: Path) -> None:
    from PIL import Image

    for name, value in (("light", 200), ("dark", 50)):
        (workplace / "photos" / name).mkdir(parents=True)
        for number in range(30):
            Image.new("RGB", (12, 12), (value + number % 5, value, value)).save(workplace / "photos" / name / f"{number}.png")
    answer = zoo("check", "folder", "--set", "data.root=photos", "--set", "data.size=8")
    assert answer.code == 0, answer.out + answer.err
    assert zoo("check", "folder", "--set", "model.depth=3").is_one_line_error("model")


@pytest.mark.parametrize("parameter", ["strength: float", "strength: str = 'much'", "strength=None"])
def test_an_augmentation_with_no_number_as_default_needs_an_argument(zoo, workplace: Path, parameter: str) -> None:
    Path("mine.py").write_text(
        "from zoo import register_augmentation\n\n\n@register_augmentation('blend')\n"
        f'def blend(batch, generator, {parameter}):\n    """Change nothing."""\n    return batch\n'
    )
    train = ("--plugin", "mine.py", "train", "mlp", *QUICK, "--set")
    assert zoo(*train, "data.augment=blend").is_one_line_error("augmentation 'blend'", "as in blend:1")
    assert zoo(*train, "data.augment=blend:1").code == 0


UNRULY = '''
from zoo import register_model
from zoo.models.softmax import Linear


@register_model("unruly", task="classification", data="digits")
class Unruly(Linear):
    """Ends in forward."""

    def forward(self, images):
        raise {}
'''


@pytest.mark.parametrize("code", [0, 7, "'bye'"])
def test_a_model_that_ends_the_program_fails_in_one_line_and_leaves_no_run(zoo, code: object) -> None:
    Path("mine.py").write_text(UNRULY.format(f"SystemExit({code})"))
    assert zoo("--plugin", "mine.py", "train", "unruly", *QUICK).is_one_line_error(f"called sys.exit({code})")
    assert not list(Path("runs").glob("*"))


def test_a_model_that_ends_an_iteration_does_not_end_the_training_as_if_it_were_done(zoo) -> None:
    Path("mine.py").write_text(UNRULY.format("StopIteration"))
    answer = zoo("--plugin", "mine.py", "train", "unruly", *QUICK)
    assert answer.code == 2 and "error: the epoch ended after 0 of 4 batches" in answer.err and "StopIteration" in answer.err


def test_a_model_that_raises_the_interrupt_itself_is_interrupted(zoo) -> None:
    Path("mine.py").write_text(UNRULY.format("KeyboardInterrupt"))
    answer = zoo("--plugin", "mine.py", "train", "unruly", *QUICK)
    assert answer.code == 130 and "interrupted" in answer.err


def test_a_fault_before_the_first_step_does_not_advise_to_resume_what_was_removed(zoo) -> None:
    Path("mine.py").write_text(UNRULY.format("KeyError('mine')"))
    with pytest.raises(KeyError) as fault:
        zoo("--plugin", "mine.py", "train", "unruly", *QUICK)
    assert not list(Path("runs").glob("*")) and not getattr(fault.value, "__notes__", [])
