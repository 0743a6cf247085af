"""The server over real HTTP: answers, refusals that cost nothing, batches, and its end."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from PIL import Image

from zoo.serve import connections
from zoo.serve.application import Application
from zoo.serve.uploads import Limits


def ask(address: str, method: str, path: str, body=None, headers: dict | None = None) -> tuple[int, dict[str, str], object]:
    """Status, headers and what was answered, as JSON where it is."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    try:
        headers = headers or {}
        connection.request(method, path, body, headers, encode_chunked="Transfer-Encoding" in headers)
        response = connection.getresponse()
        told = {name.lower(): value for name, value in response.getheaders()}
        content = response.read()
        return response.status, told, json.loads(content) if "json" in told.get("content-type", "") else content.decode()
    finally:
        connection.close()


def connected(address: str) -> socket.socket:
    """A connection to a server."""
    return socket.create_connection(("127.0.0.1", urlsplit(address).port), timeout=30)


def form(*files: tuple[str, bytes], field: str = "images") -> tuple[bytes, dict[str, str]]:
    """A multipart body and its headers, as RFC 7578 has it."""
    boundary = uuid.uuid4().hex
    body = b""
    for name, content in files:
        told = f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
        body += told.encode() + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_it_answers_as_predict_does(zoo, trained, address: str) -> None:
    names = ("one.png", "two.png")
    for seed, name in enumerate(names):
        trained.picture("yellow", seed, (30, 20)).save(name)
    expected = json.loads(zoo("predict", trained.folder.path, *names, "--json").out)
    status, _, told = ask(address, "POST", "/predict", *form(*((name, Path(name).read_bytes()) for name in names)))
    assert status == 200 and [entry["file"] for entry in told] == list(names)
    for mine, theirs in zip(told, expected, strict=True):
        assert mine.keys() == theirs.keys() and mine["class"] == theirs["class"] == "yellow"
        assert mine["probability"] == pytest.approx(theirs["probability"], abs=1e-6)
        assert [entry["class"] for entry in mine["top"]] == [entry["class"] for entry in theirs["top"]]
    status, _, (raw,) = ask(address, "POST", "/predict?top=1", Path("one.png").read_bytes(), {"Content-Type": "image/png"})
    assert status == 200 and raw["probability"] == pytest.approx(told[0]["probability"], abs=1e-6) and len(raw["top"]) == 1


def test_files_that_are_no_images_have_an_error_in_their_place(trained, address: str) -> None:
    good = png(trained.picture("yellow", 1))
    files = ("notes.txt", b"not an image"), ("a.png", good), ("large.png", png(Image.new("1", (10_000, 6_000)))), ("b.png", good)
    status, _, told = ask(address, "POST", "/predict", *form(*files))
    assert status == 200 and [entry["file"] for entry in told] == [name for name, _ in files]
    assert [entry.get("error", "")[:12] for entry in told] == ["not an image", "", "10000x6000 p", ""]
    assert told[1]["class"] == told[3]["class"] == "yellow" and told[0].keys() == {"file", "error"}


def test_it_tells_what_it_serves(trained, address: str) -> None:
    status, _, told = ask(address, "GET", "/model")
    assert status == 200
    assert told["classes"] == list(trained.classifier().spec.classes) and told["model"] == "resnet20"
    assert told["input"] == {"channels": 3, "height": 16, "width": 16} and told["metrics"] == {"test/accuracy": 0.75}


def test_the_page_needs_nothing_from_elsewhere(address: str) -> None:
    status, headers, page = ask(address, "GET", "/")
    assert status == 200 and headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "http:" not in page and "https:" not in page and "src=" not in page


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/predict", form(("notes.txt", b"not an image")), 400, "notes.txt: not an image"),
        ("POST", "/predict", form(("good.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 99)), 400, "good.png: not an image"),
        ("POST", "/predict", form(("one.png", b"x"), field="picture"), 400, "in the field 'images'"),
        ("POST", "/predict", form(*((f"{n}.png", b"x") for n in range(65))), 400, "at most 64 images"),
        ("POST", "/predict", form(), 400, "no image"),
        ("POST", "/predict", (b"", {}), 400, "no image"),
        ("POST", "/predict", (b"garbage", {"Content-Type": "multipart/form-data; boundary=x"}), 400, ""),
        ("POST", "/predict", (b"garbage", {"Content-Type": "multipart/form-data"}), 400, "boundary"),
        ("POST", "/predict?top=x", form(("one.png", b"x")), 400, "top=x"),
        ("POST", "/predict?top=0", form(("one.png", b"x")), 400, "top=0"),
        ("GET", "/predict", (None, {}), 405, "GET is not allowed for /predict"),
        ("POST", "/", (b"", {}), 405, "POST is not allowed for /"),
        ("GET", "/etc/passwd", (None, {}), 404, "/predict"),
        ("GET", "/../page.html", (None, {}), 404, "/predict"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_as_json(address: str, method: str, path: str, body, status: int, words: str) -> None:
    code, _, told = ask(address, method, path, *body)
    assert code == status and list(told) == ["error"]
    assert words in told["error"] and "\n" not in told["error"] and told["error"]


def test_formats_that_would_start_programs_are_no_images(address: str) -> None:
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"
    assert ask(address, "POST", "/predict", *form(("a.eps", script)))[0] == 400


def test_a_bomb_is_refused_by_its_header(address: str) -> None:
    """20,000 x 20,000 pixels in 50 kB: more than Pillow takes; and 10,000 x 6,000, which it would take."""
    for size, status in (((20_000, 20_000), {400, 413}), ((10_000, 6_000), {413})):
        bomb = png(Image.new("1", size))
        assert len(bomb) < 100_000
        code, _, told = ask(address, "POST", "/predict", *form(("bomb.png", bomb)))
        assert code in status and "bomb.png" in told["error"] and "pixels" in told["error"]


@pytest.mark.parametrize("told_length", [True, False], ids=["by its length", "while it is read"])
def test_a_large_upload_is_refused_without_being_held(serve, told_length: bool) -> None:
    """A hundred megabytes are sent, the answer comes, and what Python allocated meanwhile stays near what is let in."""
    part, parts = b"\0" * 1_000_000, 100
    headers = {"Content-Length": str(len(part) * parts)} if told_length else {"Transfer-Encoding": "chunked"}
    with serve(Limits(bytes=5_000_000)) as server:
        tracemalloc.start()
        try:
            status, told, answer = ask(server.address, "POST", "/predict", (part for _ in range(parts)), headers)
            highest = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert status == 413 and "5 MB" in answer["error"] and told["connection"] == "close"
    assert highest < 15_000_000


def test_what_is_sent_touches_no_disk(serve, trained, monkeypatch) -> None:
    """A picture of three megabytes in a form: more than Starlette keeps in memory by itself."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a file is made")

    content = png(Image.frombytes("RGB", (1000, 1000), os.urandom(3_000_000)))
    with serve() as server:
        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
        assert ask(server.address, "POST", "/predict", *form(("large.png", content)))[0] == 200


def test_an_upload_that_never_ends_is_given_up(serve) -> None:
    with serve(Limits(seconds=0.2)) as server, connected(server.address) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")


HALF_A_REQUEST = b"GET /model HTTP/1.1\r\nHost: localhost\r\nX-Half"


@pytest.mark.parametrize(
    "sent",
    [b"", HALF_A_REQUEST, HALF_A_REQUEST[:-6] + b"\r\n" + HALF_A_REQUEST, HALF_A_REQUEST[:-6] + b"Content-Length: 9\r\n\r\nabc"],
    ids=["nothing", "half a header", "half of the second header", "half of a body that nobody reads"],
)
def test_a_connection_that_sends_half_a_request_is_closed(serve, monkeypatch, sent: bytes) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.3)
    with serve() as server, connected(server.address) as connection:
        connection.sendall(sent)
        deadline = time.monotonic() + 20
        with suppress(OSError):  # it was closed before
            for letter in b"x" * 200:  # a byte now and then is no progress
                connection.sendall(bytes([letter]))
                connection.settimeout(0.05)
                with suppress(TimeoutError):
                    while connection.recv(4096):
                        pass
                    break
        assert time.monotonic() < deadline
        assert ask(server.address, "GET", "/model")[0] == 200


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_hangs_up_is_one_line_in_the_log(serve, capfd, reset: bool) -> None:
    with serve() as server:
        with connected(server.address) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
            ask(server.address, "GET", "/model")  # it has been read
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        log, deadline = "", time.monotonic() + 20
        while not log and time.monotonic() < deadline:
            ask(server.address, "GET", "/model")
            log = capfd.readouterr().err
    log += capfd.readouterr().err
    assert log == "a client hung up while it sent POST /predict\n"


@pytest.mark.parametrize(
    ("hosts", "host", "status"),
    [
        ((), "localhost:8000", 200), ((), "127.0.0.1", 200), ((), "[::1]:8000", 200), ((), "LOCALHOST", 200),
        ((), "rebound.example", 421), ((), "localhost.rebound.example", 421), ((), "192.0.2.1", 421), ((), "[::1", 421),
        (["Photos.example"], "photos.example:80", 200), (["photos.example"], "other.example", 421),
        (["*"], "192.0.2.1:8000", 200), (["*"], "[2001:db8::1]", 200), (["*"], "rebound.example", 421),
    ],
)  # fmt: skip
def test_only_known_hosts_are_served(trained, hosts: list[str], host: str, status: int) -> None:
    """A page of the web whose name resolves to this machine sends its own name."""
    from starlette.testclient import TestClient

    application = Application(trained.classifier(), trained.run, "colorist", {}, Limits(), hosts=hosts)
    for method, path in (("GET", "/model"), ("POST", "/predict")):
        answer = TestClient(application).request(method, path, headers={"Host": host})
        assert answer.status_code == (400 if status == 200 and method == "POST" else status)
        assert status == 200 or ("is not served here" in answer.json()["error"] and "--allow-host" in answer.json()["error"])


def test_requests_that_come_together_share_a_batch(serve, trained) -> None:
    """Eight requests wait while the first is computed; then they go through the network at once, and each gets its own."""
    task, sizes, go_on = trained.classifier(), [], threading.Event()

    def network(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        assert go_on.wait(60)
        with torch.inference_mode():
            return task.predict_step({"images": images})

    names = [tuple(task.spec.classes)[number % 3] for number in range(8)]
    pictures = [png(trained.picture(name, seed)) for seed, name in enumerate(names)]
    with serve(network=network, wait=0.0, largest=6) as server, ThreadPoolExecutor(9) as threads:
        first = threads.submit(ask, server.address, "POST", "/predict", pictures[0])
        while not sizes:
            time.sleep(0.01)
        others = [threads.submit(ask, server.address, "POST", "/predict", content) for content in pictures]
        while server.batches.queue.qsize() < 8:
            time.sleep(0.01)
        go_on.set()
        assert [other.result()[2][0]["class"] for other in others] == names
        assert first.result()[2][0]["class"] == names[0]
    assert sizes == [1, 6, 2]


def test_a_fault_is_told_and_the_server_goes_on(serve, trained) -> None:
    task, calls = trained.classifier(), []

    def network(images: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("out of memory")
        with torch.inference_mode():
            return task.predict_step({"images": images})

    content = png(trained.picture("yellow", 0))
    with serve(network=network) as server:
        status, _, told = ask(server.address, "POST", "/predict", content)
        assert status == 500 and list(told) == ["error"] and "out of memory" not in told["error"]
        assert ask(server.address, "POST", "/predict", content)[0] == 200


def test_a_place_that_cannot_be_had_is_told_in_one_line(zoo, trained, monkeypatch) -> None:
    run = trained.folder.path
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert zoo("serve", run, "--port", port).is_one_line_error(f"--port {port}", "address already in use")
    assert zoo("serve", run, "--port", "99999").is_one_line_error("--port 99999", "65535")
    assert zoo("serve", run, "--port", "http").is_one_line_error("--port http")
    assert zoo("serve", run, "--max-mb", "0").is_one_line_error("--max-mb 0")
    assert zoo("serve", run, "--host", "1.2.3.4.5").is_one_line_error("--host 1.2.3.4.5")
    assert zoo("serve", run, "--allow-host", "http://x").is_one_line_error("--allow-host http://x", "a name alone")
    assert zoo("serve", "nowhere").is_one_line_error("no run 'nowhere'")
    monkeypatch.delitem(sys.modules, "zoo.serve.server", raising=False)
    monkeypatch.delattr(sys.modules["zoo.serve"], "server", raising=False)  # the package, whatever was imported again before
    monkeypatch.setitem(sys.modules, "uvicorn", None)  # as if it were not installed
    assert zoo("serve", run).is_one_line_error("uvicorn", "bestiary[serve]")


@pytest.mark.slow
def test_it_says_where_it_is_and_ends_with_an_interrupt(zoo, trained) -> None:
    """The command itself, on an exported file, in a process of its own."""
    assert zoo("export", trained.folder.path, "--to", "safetensors", "-o", "colorist.safetensors").code == 0
    code = "import sys; sys.argv = ['zoo', 'serve', 'colorist.safetensors', '--port', '0']\nfrom zoo.cli import app; app()"
    before = sorted(path.name for path in Path().iterdir())
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ,
    )  # fmt: skip
    try:
        lines = [process.stdout.readline() for _ in range(3)]
        address = lines[0].split()[-1]
        assert (
            lines[0].startswith("colorist is served at http://127.0.0.1:") and f"curl -F images=@photo.jpg {address}" in lines[1]
        )
        status, _, told = ask(address, "POST", "/predict", png(trained.picture("yellow", 1)))
        assert status == 200 and told[0]["class"] == "yellow"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and error in ("", "interrupted\n")
    assert sorted(path.name for path in Path().iterdir()) == before  # nothing was kept of what was sent
