"""What all tests share: an empty working folder, the command in process, and an installed third-party package."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from zoo.registry import entry

if TYPE_CHECKING:
    from tests.wandb_service import WandbService

HERE = Path(__file__).parent
# networks in tests are tiny: threads cost more than they give, above all on a machine that does other work
os.environ.setdefault("OMP_NUM_THREADS", "1")
# a shell in the background and nohup have the tests ignore signals, and so all processes that they start
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder and an empty cache for each test."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    return folder


@pytest.fixture(autouse=True)
def nothing_stays_registered() -> Iterator[None]:
    """Forget what a test registered: the registry would find it in this process from then on."""
    before = set(entry._runtime_entries)
    yield
    for key in [key for key in entry._runtime_entries if key not in before and not key[0].startswith("zoo.")]:
        sys.modules.pop(key[0], None)
        for known in (entry._classes, entry._runtime_entries):
            known.pop(key, None)


@dataclass(frozen=True)
class Answer:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    def is_one_line_error(self, *words: str) -> bool:
        """Exit code 2 and a single line on standard error that holds all the words."""
        lines = self.err.strip().splitlines()
        return self.code == 2 and not self.out and len(lines) == 1 and all(word in lines[0] for word in words)


@pytest.fixture
def zoo(capfd: pytest.CaptureFixture):
    """The ``zoo`` command in this process: ``zoo("train", "mlp")`` gives an Answer."""
    from zoo.cli import app

    def call(*arguments: object) -> Answer:
        capfd.readouterr()
        former = sys.argv
        sys.argv = ["zoo", *map(str, arguments)]
        try:
            app()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            sys.argv = former
        captured = capfd.readouterr()
        return Answer(code, captured.out, captured.err)

    return call


@pytest.fixture
def own_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """wandb with no traces of whoever runs the tests, and none left for the next test."""
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # whatever goes wrong, nothing leaves this machine
    (tmp_path / "home").mkdir()
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


@pytest.fixture
def wandb_server(own_wandb: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbService]:
    """A service of W&B on this machine, to which runs go."""
    from tests.wandb_service import WandbService

    service = WandbService()
    monkeypatch.setenv("WANDB_BASE_URL", service.url)
    yield service
    service.stop()


@pytest.fixture(scope="session")
def plugin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tests/plugin`` installed by pip into a folder of its own."""
    import shutil

    source = tmp_path_factory.mktemp("plugin") / "source"
    shutil.copytree(HERE / "plugin", source)
    target = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation",
         "--disable-pip-version-check", "--target", str(target), str(source)],
        check=True,
    )  # fmt: skip
    return target


@pytest.fixture
def plugin(plugin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The third-party package, importable for one test."""
    monkeypatch.syspath_prepend(str(plugin_folder))
    return plugin_folder


@pytest.fixture
def hub(workplace: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that puts files into a cache of the Hugging Face hub, which is used without a network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(workplace / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(repository: str, **contents: bytes) -> Path:
        folder = workplace / "hub" / f"models--{repository.replace('/', '--')}"
        for name, content in contents.items():
            name = name.replace("_safetensors", ".safetensors").replace("_json", ".json")
            digest = hashlib.sha256(content).hexdigest()
            for path in ("blobs", "refs", "snapshots/abc"):
                (folder / path).mkdir(parents=True, exist_ok=True)
            (folder / "blobs" / digest).write_bytes(content)
            (folder / "refs" / "main").write_text("abc")
            (folder / "snapshots/abc" / name).symlink_to(folder / "blobs" / digest)
        return folder

    return put
