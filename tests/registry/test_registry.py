"""Names are read from source without running it, and what is read is what Python would have registered."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from zoo.config.options import check_options
from zoo.core.errors import UserError
from zoo.registry import registry as registry_module
from zoo.registry.entry import KINDS, Entry, runtime_entry
from zoo.registry.registry import Registry, scan
from zoo.registry.source import read_file

MINE = '''
"""A plugin file."""
from zoo import register_model
SIZES = [8, 4]
@register_model("mine", task="classification", widths=SIZES, data="digits", tags=["own"])
class Mine:
    """My network: it does nothing.

    Args:
        widths: of the layers,
            from input to output.
        rate: of something.
    """
    def __init__(self, spec, recipe, widths: list[int] = [1], rate: float = 0.5): ...
'''


def everything(registry: Registry) -> list[Entry]:
    return [entry for kind in KINDS for entry in registry.entries(kind).values()]


def test_both_readers_agree_on_every_name() -> None:
    registry = scan()
    assert len(registry.models) >= 27 and len(registry.data) >= 6 and not registry.warnings
    for entry in everything(registry):
        assert entry.load().__name__ == entry.class_name
        assert replace(entry, origin="", path="") == runtime_entry(entry)


def test_every_model_has_data_of_its_task_and_a_class_of_its_task() -> None:
    registry = scan()
    for entry in registry.models.values():
        assert registry.data_set(entry.data).task == entry.task == entry.load().with_loop(entry.task).task
        assert "offline" in registry.data_set(entry.data).tags, f"{entry.name} needs a network"


def test_every_model_has_a_short_description_of_its_own() -> None:
    titles = [entry.summary.partition(":")[0] for entry in scan().models.values()]
    assert len(set(titles)) == len(titles) and max(map(len, titles)) <= 48


def test_a_file_is_read_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MINE + "\nraise SystemExit('this file was run')\n")
    entry = scan([str(path)]).model("mine")
    assert entry.summary == "My network: it does nothing."
    assert [(o.name, o.type, o.default) for o in entry.options] == [("widths", "list[int]", [8, 4]), ("rate", "float", 0.5)]
    assert entry.options[0].help == "of the layers, from input to output."
    assert entry.tags == ("own",) and entry.origin == str(path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (('task="classification", ', ""), "has no literal task"),
        (("widths=SIZES", "heights=SIZES"), "does not take"),
        (("class Mine:", "class Mine"), "expected ':'"),
    ],
)
def test_a_plugin_file_that_cannot_be_read_is_one_line(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MINE.replace(*change))
    with pytest.raises(UserError, match=complaint) as raised:
        scan([str(path)])
    assert "\n" not in str(raised.value) and "mine.py" in str(raised.value)


@pytest.mark.parametrize(("text", "complaint"), [("x = 1", "registers no model"), ("", "registers no model")])
def test_a_plugin_file_that_registers_nothing_is_an_error(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "empty.py"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint):
        scan([str(path)])


def test_a_missing_plugin_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.py: no such file"):
        scan(["nowhere.py"])
    with pytest.raises(UserError, match="a folder: pass a file in it"):
        scan([str(tmp_path)])


def test_the_nearest_name_is_offered() -> None:
    with pytest.raises(UserError, match="no model 'resnet2': did you mean .*'resnet20'"):
        scan().model("resnet2")
    with pytest.raises(UserError, match="no data set 'ciphar10': did you mean 'cifar10'"):
        scan().data_set("ciphar10")


def test_an_installed_plugin_is_listed_without_being_run(plugin: Path) -> None:
    registry = scan()
    entry = registry.model("squeezenet")
    assert entry.origin == "squeezenet-zoo 1.2.0" and entry.defaults == {"version": "1_1"}
    assert registry.data_set("stripes").task == "classification"
    code = (
        f"import sys; sys.path.insert(0, {str(plugin)!r})\n"
        "from zoo import scan; scan().model('squeezenet')\n"
        "assert not {'squeezenet_zoo', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_plugins_can_be_turned_off(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DISABLE_PLUGINS", "1")
    assert "squeezenet" not in scan().models


def fake_distribution(folder: Path, name: str, module: str, source: str | None) -> None:
    info = folder / f"{name}-3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 3\n")
    (info / "entry_points.txt").write_text(f"[zoo.plugins]\nit = {module}\n")
    if source is not None:
        (folder / f"{module}.py").write_text(source)


@pytest.mark.parametrize("source", [None, "def broken(:\n register_model"])
def test_a_broken_plugin_is_one_warning_and_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None
) -> None:
    fake_distribution(tmp_path, "brokenzoo", "broken_zoo_module", source)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = scan()
    assert len(registry.warnings) == 1 and "brokenzoo 3 is skipped" in registry.warnings[0]
    assert "resnet20" in registry.models


LAZY = MINE.replace("mine", "lazy")
NESTED = "-" * 20_000 + "1"


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (LAZY.replace('["own"]', "None"), "'lazy' has tags=None: must be a list of texts"),
        (LAZY.replace('["own"]', "5"), "'lazy' has tags=5"),
        (LAZY.replace('["own"]', '["own"], recipe=5'), "'lazy' has recipe=5: must be a dictionary of settings"),
        (LAZY.replace('["own"]', '["own"], tiny={"widths": {1, 2}}'), "'lazy' has tiny="),
        (LAZY.replace('data="digits"', "data=3"), "'lazy' has data=3: must be a text"),
        (LAZY.replace("widths=SIZES", "widths=..."), "'lazy' sets 'widths': must be plain data"),
        (LAZY.replace("widths=SIZES", "**5"), "no dictionary"),
        (LAZY.replace('"lazy"', '"../lazy"'), "'../lazy' is no name"),
        (LAZY.replace('@register_model("lazy"', '@register_model("lazy", task="t")\n@register_model("lazy"'), "registered twice"),
        (f"{LAZY}\nDEEP = {NESTED}\n", "nested too deeply"),
        (LAZY.replace("[8, 4]", "[\0]"), "null"),
    ],
)
def test_a_plugin_with_a_wrong_description_is_one_warning_and_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, complaint: str
) -> None:
    fake_distribution(tmp_path, "lazyzoo", "lazy_zoo_module", source)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = scan()
    (warning,) = registry.warnings
    assert warning.startswith("lazyzoo 3 is skipped: lazy_zoo_module.py: ") and complaint in warning and "\n" not in warning
    assert "lazy" not in registry.models and registry.model("resnet20")


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (("widths=SIZES", "widths={[]: 1}"), {"widths": [1], "rate": 0.5}),  # known once it is imported, and wrong then
        (("rate: float = 0.5", "rate=..."), {"widths": [8, 4]}),
        (("rate: float = 0.5", "rate: 'list[' = 0.5"), {"widths": [8, 4], "rate": 0.5}),
        (("rate: float = 0.5", "rate: Literal[x] = 0.5"), {"widths": [8, 4], "rate": 0.5}),
        (("rate: float = 0.5", "rate: dict[int] = 0.5, _own=1"), {"widths": [8, 4], "rate": 0.5}),
        (("class Mine:", "class Mine(Mine):"), {"widths": [8, 4], "rate": 0.5}),
        (("SIZES = [8, 4]", "SIZES = OTHERS\nOTHERS = SIZES\nSIZES = [8, 4]"), {"widths": [8, 4], "rate": 0.5}),
    ],
)
def test_what_cannot_be_read_or_is_no_plain_data_is_no_obstacle(
    tmp_path: Path, change: tuple[str, str], options: dict[str, object]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MINE.replace(*change))
    registry = scan([str(path)])
    entry = registry.models["mine"]
    assert entry.defaults == options and not registry.warnings
    assert check_options(entry, {"widths": [3]})["widths"] == [3]


def test_a_class_named_after_its_imported_base_inherits_from_that(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text("class Net:\n    def __init__(self, spec, recipe, depth: int = 3): ...\n")
    path = tmp_path / "mine.py"
    path.write_text(
        "from zoo import register_model\nfrom base import Net\n@register_model('mine', task='t')\nclass Net(Net): ...\n"
    )
    assert scan([str(path)]).models["mine"].defaults == {"depth": 3}


def test_several_bases_are_read_in_the_order_of_python(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text('''
class Root:
    """Root.

    Args:
        size: of the root.
    """
    def __init__(self, spec, recipe, size: int = 1, depth: int = 1): ...
class Left(Root):
    def __init__(self, spec, recipe, left: int = 2, **options): ...
class Right(Root):
    """Right.

    Args:
        size: of the right.
    """
    def __init__(self, spec, recipe, size: int = 3, **options): ...
''')
    path = tmp_path / "mine.py"
    path.write_text(
        "from zoo import register_model\nfrom base import Left, Right\n"
        "class Both(Left, Right): ...\n@register_model('mine', task='t')\nclass Mine(Both, Right): ...\n"
    )
    entry = scan([str(path)]).models["mine"]
    assert entry.defaults == {"left": 2, "size": 3, "depth": 1}
    assert [option.help for option in entry.options] == ["", "of the right.", ""]
    entry.load()
    assert replace(entry, origin="", path="") == runtime_entry(entry)


def test_entry_points_that_cannot_be_read_are_a_warning(plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_distribution(tmp_path, "brokenzoo", "broken", None)
    (tmp_path / "brokenzoo-3.dist-info" / "entry_points.txt").write_text("[zoo.plugins]\nno value here\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = scan()
    assert ["brokenzoo is skipped" in warning for warning in registry.warnings] == [True] and "squeezenet" in registry.models


def test_a_plugin_that_fails_on_import_fails_only_when_it_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_distribution(tmp_path, "lazyzoo", "lazy_zoo_module", MINE.replace("mine", "lazy") + "\nraise RuntimeError('no luck')")
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = scan().model("lazy")
    with pytest.raises(UserError, match="'lazy' of lazyzoo 3 cannot be imported: RuntimeError: no luck"):
        entry.load()
    (tmp_path / "lazy_zoo_module.py").write_text("import sys\n" + MINE.replace("mine", "lazy") + "\nsys.exit(0)")
    with pytest.raises(UserError, match="'lazy' of lazyzoo 3 cannot be imported: SystemExit: 0"):
        scan().model("lazy").load()


def test_a_name_claimed_twice_is_an_error_that_names_both_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_distribution(tmp_path, "greedyzoo", "greedy_zoo_module", MINE.replace('"mine"', '"resnet20"'))
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = scan()
    with pytest.raises(UserError, match=r"'resnet20' is registered twice, by bestiary .* and greedyzoo 3"):
        registry.model("resnet20")
    assert registry.model("resnet56").origin.startswith("bestiary")
    assert len(registry.warnings) == 1


@pytest.mark.slow
def test_a_project_may_have_folders_of_the_same_names(tmp_path: Path) -> None:
    for name in ("callbacks", "datamodules"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
        (tmp_path / name / "mine.py").write_text(f"HERE = {name!r}")
    (tmp_path / "cli.py").write_text("HERE = 'cli'")
    imports = "import cli\nfrom callbacks.mine import HERE\nfrom datamodules import mine\n"
    script = tmp_path / "script.py"
    script.write_text(imports + "import zoo\nprint(cli.HERE, HERE, mine.HERE, zoo.scan().data_set('digits').load().__name__)")
    assert subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stdout == (
        "cli callbacks datamodules Digits\n"
    )
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        imports + "from zoo import register_model\nfrom zoo.callbacks.sparkline import sparkline\n"
        "@register_model('mine', task='classification')\nclass Mine:\n    def __init__(self, spec, recipe): ...\n"
    )
    code = f"from zoo import scan\nprint(scan([{str(plugin)!r}]).model('mine').load().__name__)"
    assert subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True).stdout == "Mine\n"


def test_reading_ours_imports_nothing_heavy() -> None:
    code = (
        "import sys, zoo; zoo.scan(); assert not {'torch','lightning','pydantic','numpy','rich'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_entries_are_read_in_the_order_that_python_registers(tmp_path: Path) -> None:
    path = tmp_path / "two.py"
    path.write_text(MINE.replace('@register_model("mine"', '@register_model("second", task="t")\n@register_model("mine"'))
    assert [entry.name for entry in read_file(path, "two")] == ["mine", "second"]


def test_functions_are_skipped_and_texts_that_look_like_them_are_not(tmp_path: Path) -> None:
    code = '''
@wrapped
def helper(
    text: str = """
class NotThis:
""",
) -> str:
    """
def not_a_function():
    @register_model("not-this", task="t")
    """
    return text


class Base:
    @property
    def size(self) -> int:
        return 1

    def __init__(self, spec, recipe, depth: int = 3): ...

    def forward(
        self,
    ):
        return 1


@register_model("deep", task="t", depth=5)
class Deep(Base):
    """Deep."""
    def stages(self): return {}
'''
    path = tmp_path / "skipped.py"
    path.write_text(code)
    (entry,) = read_file(path, "skipped")
    assert (entry.name, entry.defaults, entry.summary) == ("deep", {"depth": 5}, "Deep.")
    path.write_text(code.replace('"deep", task="t", depth=5', '"deep", depth=5'))
    line = next(number for number, text in enumerate(code.splitlines(), 1) if "depth=5" in text)
    with pytest.raises(ValueError, match=f"line {line}: 'deep' has no literal task"):
        list(read_file(path, "skipped"))


def test_files_of_plugins_with_names_in_other_encodings_are_remembered(tmp_path: Path) -> None:
    path = Path(os.fsdecode(bytes(tmp_path) + b"/m\xe4rz.py"))
    registry_module._trust(str(path))
    assert str(path) in registry_module._trusted()
