"""Downloads from a server on this machine: good, wrong, broken, stalled, and several at once."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from zoo.core import download as fetch_module
from zoo.core.download import fetch
from zoo.core.errors import UserError
from zoo.core.files import cache_folder

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HOME = Path(__file__).resolve().parents[2]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        page = b"<!DOCTYPE html><html>moved</html>"
        if self.path == "/missing":
            self.send_error(404)
        elif self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", "http://203.0.113.1/file")
            self.end_headers()
        else:
            body = {"/page": page, "/other": CONTENT[1:], "/half": CONTENT[: len(CONTENT) // 2]}.get(self.path, CONTENT)
            self.send_response(200)
            self.send_header("Content-Length", str(len(page if self.path == "/page" else CONTENT)))
            self.end_headers()
            if self.path == "/slow":
                time.sleep(0.5)
            self.wfile.write(body[:1000])
            if self.path == "/stall":
                self.wfile.flush()
                self.server.released.wait(20)
            self.wfile.write(body[1000:])

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.released = [], threading.Event()
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    server.source = lambda path, digest=SHA256: f"http://127.0.0.1:{server.server_port}/{path}#sha256={digest}"
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_keeps_what_was_verified_and_does_not_ask_again(server, capsys):
    path = fetch("data.bin", server.source("file"))
    assert path == cache_folder() / "downloads" / "data.bin"
    assert path.read_bytes() == CONTENT
    assert left_in(path.parent) == ["data.bin"]
    assert capsys.readouterr().err.count("\n") == 1  # one plain line in a log
    assert fetch("data.bin", server.source("missing")) == path
    assert server.asked == ["/file"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("missing", "404"),
        ("page", "web page"),
        ("other", "SHA-256"),
        ("half", "broke off"),
        ("elsewhere", "redirects to http://203.0.113.1"),
    ],
)
def test_goes_on_to_the_next_mirror(server, tmp_path, bad, reason):
    folder = tmp_path / "data"
    assert fetch("data.bin", server.source(bad), server.source("file"), folder=folder).read_bytes() == CONTENT
    assert server.asked == [f"/{bad}", "/file"]
    with pytest.raises(UserError) as error:
        fetch("again.bin", server.source(bad), folder=folder)
    text = one_line(error)
    for part in ("again.bin", reason, str(folder / "again.bin"), SHA256):
        assert part in text
    assert left_in(folder) == ["data.bin"]


def test_a_stalled_mirror_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_module, "PATIENCE", 0.3)
    start = time.monotonic()
    assert fetch("data.bin", server.source("stall"), server.source("file"), folder=tmp_path).read_bytes() == CONTENT
    assert time.monotonic() - start < 5


def test_an_endless_or_trickling_answer_is_given_up(monkeypatch):
    class Endless:
        def read1(self, size: int) -> bytes:
            time.sleep(0.02)
            return b"x"

    monkeypatch.setattr(fetch_module, "PATIENCE", 0.1)
    with pytest.raises(TimeoutError):
        list(fetch_module._chunks(Endless()))
    monkeypatch.setattr(fetch_module, "LARGEST", 3)
    monkeypatch.setattr(fetch_module, "PATIENCE", 60)
    with pytest.raises(ValueError, match="more than 3 bytes"):
        list(fetch_module._chunks(Endless()))


@pytest.mark.parametrize("there", [False, True])
def test_a_failure_leaves_no_folder_and_no_lock(server, workplace, there):
    if there:
        (workplace / "a").mkdir()
    with pytest.raises(UserError):
        fetch("data.bin", server.source("missing"), folder=workplace / "a" / "b" / "c")
    assert [path.name for path in workplace.rglob("*")] == (["a"] if there else [])


def test_nobody_answers(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="refused"):
        fetch("data.bin", server.source("file"), folder=tmp_path)


def test_a_corrupt_file_stays_until_a_good_one_is_there(server, tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(b"old")
    with pytest.raises(UserError):
        fetch("data.bin", server.source("missing"), folder=tmp_path)
    assert path.read_bytes() == b"old"
    assert fetch("data.bin", server.source("file"), folder=tmp_path).read_bytes() == CONTENT


def test_processes_that_ask_at_once_download_once(server, tmp_path):
    code = "import sys, pathlib; from zoo.core.download import fetch; fetch('d', sys.argv[1], folder=pathlib.Path(sys.argv[2]))"
    command = [sys.executable, "-c", code, server.source("slow"), str(tmp_path)]
    processes = [subprocess.Popen(command, cwd=HOME) for _ in range(3)]
    assert [process.wait(30) for process in processes] == [0, 0, 0]
    assert server.asked == ["/slow"]
    assert (tmp_path / "d").read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_is_one_line(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be") as error:
        fetch("data.bin", server.source("file"), folder=tmp_path / "file" / "below")
    one_line(error)


def test_a_full_disk_ends_it_with_one_line(server, tmp_path, monkeypatch):
    opened = Path.open

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, content):
            raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "open", lambda path, mode="r": Full(opened(path, mode)) if mode == "wb" else opened(path, mode))
    with pytest.raises(UserError, match="No space left") as error:
        fetch("data.bin", server.source("file"), server.source("file"), folder=tmp_path)
    one_line(error)
    assert server.asked == ["/file"]  # another mirror would not help
    assert "data.bin" not in left_in(tmp_path)


def test_a_read_only_folder_serves_what_it_has(server, tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "data.bin").write_bytes(CONTENT)
    folder.chmod(0o555)
    try:
        assert fetch("data.bin", server.source("file"), folder=folder).read_bytes() == CONTENT
        assert [path.name for path in folder.iterdir()] == ["data.bin"]
    finally:
        folder.chmod(0o755)
    assert not server.asked


@pytest.mark.parametrize(
    "source",
    ["https://host/file", "https://host/file#sha256=12", f"http://host/file#sha256={SHA256}", f"file:///x#sha256={SHA256}"],
)
def test_a_source_without_a_hash_or_https_is_a_mistake_of_the_program(source, tmp_path):
    with pytest.raises(ValueError, match="sha256|https"):
        fetch("data.bin", source, folder=tmp_path)


def test_needs_no_torch():
    code = "import sys, zoo.core.download; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=HOME).returncode == 0
