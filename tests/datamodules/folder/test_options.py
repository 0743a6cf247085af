"""Options of a folder of images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from image_folders import make, ready

from zoo.core.errors import UserError
from zoo.datamodules.folder import Folder

HOME = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("options", [{"test": 0}, {"test": 1.0}, {"test": -0.1}, {"size": -1}, {"validation": 1.0}])
def test_options_out_of_range(root, options):
    with pytest.raises(UserError, match=f"data.{next(iter(options))}="):
        Folder(4, 0, str(root), **options)


def test_a_root_that_is_not_there_names_the_nearest(root):
    make(root)
    with pytest.raises(UserError, match="no such folder; did you mean 'pictures'"):
        ready(root.parent / "picture")
    with pytest.raises(UserError, match=f"no such folder: {root} holds no 'owls'"):
        ready(root / "owls" / "train")


def test_no_root():
    with pytest.raises(UserError, match="data.root is empty"):
        Folder(4, 0, "").build_spec()


def test_the_registry_reads_it_without_torch():
    code = (
        "import sys; from zoo.registry.registry import scan; entries = scan().data;"
        "assert {'mnist', 'fashion-mnist', 'cifar10', 'cifar100', 'folder'} <= set(entries);"
        "assert entries['folder'].options[0].default == 'required';"
        "assert all(option.help for name in ('mnist', 'cifar10', 'folder') for option in entries[name].options);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=HOME).returncode == 0
