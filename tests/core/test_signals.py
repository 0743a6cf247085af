"""One owner for all signals, from a command's first moment to its last."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from zoo.core import signals
from zoo.core.errors import Interrupted
from zoo.core.signals import NUMBERS, Stopped, stop


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.05)  # handlers are called between two operations of Python


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.name)
def test_the_first_signal_is_raised_and_the_former_handler_is_given_back(number: int) -> None:
    former = signal.getsignal(number)
    with pytest.raises(Interrupted), stop.owned():
        send(number)
    assert signal.getsignal(number) is former


def test_a_signal_is_held_until_it_is_released() -> None:
    with pytest.raises(Stopped), stop.owned(), stop.raising(Stopped):
        assert not stop.requested
        stop.error = None
        send(signal.SIGTERM)
        send(signal.SIGTERM)  # of the same request
        assert stop.requested
        stop.release(Stopped)


def test_a_signal_is_deferred_to_the_end_and_raised_once() -> None:
    passed = []
    with pytest.raises(Interrupted), stop.owned():
        with stop.deferred():
            send(signal.SIGINT)
            passed.append("end")
        passed.append("beyond")
    assert passed == ["end"]
    with stop.owned(), stop.raising(Stopped):
        stop.error = None  # who holds it already is asked for it later
        with stop.deferred():
            send(signal.SIGINT)
        assert stop.requested and not stop.was_raised


def test_a_signal_in_the_import_of_torch_waits_for_its_end(tmp_path: Path) -> None:
    """Its C++ aborts the process at an exception."""
    (tmp_path / "torch.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(0.1)\nprint('initialized', flush=True)\n"
    )
    command = [sys.executable, "-c", "from zoo.cli import app; app()", "show", "softmax", "--layers"]
    path = os.pathsep.join([str(tmp_path), str(Path(signals.__file__).parents[2])])
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "initialized\n", "interrupted\n")


def test_a_later_signal_is_raised_in_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "REPEAT_SECONDS", 0.0)
    with pytest.raises(Stopped), stop.owned():
        stop.error = None
        send(signal.SIGINT)
        send(signal.SIGINT)
    stop.error = Interrupted


def test_what_the_process_was_started_to_ignore_stays_ignored() -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop.owned():
            send(signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, former)


def test_an_owner_within_another_and_one_in_a_thread_do_nothing() -> None:
    with stop.owned():
        handler = signal.getsignal(signal.SIGTERM)
        with stop.owned():
            pass
        assert signal.getsignal(signal.SIGTERM) is handler
    entered = []
    thread = threading.Thread(target=lambda: entered.append(stop.owned().__enter__()))
    thread.start()
    thread.join()
    assert entered == [None] and signal.getsignal(signal.SIGTERM) is not handler


SECOND = """
import signal, sys, time
from zoo.core.signals import stop
with stop.owned(is_command=True):
    stop.error, stop.farewell = None, lambda text: f"{text} at once"
    print("ready", flush=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    signal.sigwait([signal.SIGALRM])  # outside of Python, where no handler is called
"""


def test_a_second_signal_ends_a_command_that_waits_outside_of_python() -> None:
    with subprocess.Popen([sys.executable, "-c", SECOND], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        for _ in range(2):
            process.send_signal(signal.SIGINT)  # twice, as a terminal and a launcher do
        time.sleep(signals.REPEAT_SECONDS + 0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130 and process.stderr.read() == "\ninterrupted at once\n"


def test_a_command_whose_terminal_was_closed_ends_all_the_same() -> None:
    with subprocess.Popen([sys.executable, "-c", SECOND], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.stderr.close()
        process.send_signal(signal.SIGHUP)
        time.sleep(signals.REPEAT_SECONDS + 0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 130


def test_a_forked_process_has_the_former_handlers_and_its_signals_are_not_those_of_its_parent() -> None:
    read, write = os.pipe()
    with stop.owned(is_command=True):
        if (child := os.fork()) == 0:
            os.write(write, repr(signal.getsignal(signal.SIGTERM)).encode())
            time.sleep(10)
            os._exit(0)
        assert b"SIG_DFL" in os.read(read, 100)
        os.kill(child, signal.SIGTERM)
        assert os.waitpid(child, 0)[1] == signal.SIGTERM
        assert not stop.requested


HIDDEN = """
import time
print("importing", flush=True)
try:
    time.sleep(30)
except BaseException:  # as extensions written in C, of which torch imports numpy
    raise RecursionError("half imported") from None
"""


@pytest.mark.parametrize("source", [HIDDEN, "print('importing', flush=True)\nimport time\ntime.sleep(30)\n"])
@pytest.mark.parametrize("module", ["zoo", "zoo.__main__"])
def test_an_interrupt_while_the_command_is_imported_is_one_line(module: str, source: str, tmp_path: Path) -> None:
    """As ``python -m zoo``, and as the installed script."""
    (tmp_path / "typer.py").write_text(source)
    start = ["-m", "zoo", "list"] if module == "zoo" else ["-c", "from zoo.__main__ import main; main()"]
    with subprocess.Popen(
        [sys.executable, *start], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130 and process.stderr.read() == "interrupted\n"
