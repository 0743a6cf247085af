"""Whether a W&B server can be used, and time limits for what it may never answer."""

from __future__ import annotations

import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from zoo.core.errors import first_line

PROJECT = "bestiary"  # of runs and models where neither they nor W&B's settings name another
PROBE_SECONDS = 3.0
CHECK_SECONDS = 2.0  # between looks at whether a server is still there


def why_not_online(server: str) -> str | None:
    """Why an online run would ask for a key or wait, or None."""
    import wandb

    try:
        known = wandb.login(prompt=False, verify=False)
    except Exception as error:  # a key of the wrong form
        return first_line(error)
    return why_unreachable(server) if known else "no API key, `wandb login` sets one"


def why_unreachable(server: str) -> str | None:
    """Why a server is unreachable, or None if it answers HTTP in time."""

    def ask() -> str | None:
        # No secret is sent, so the certificate is not verified, which is up to wandb.
        unchecked = ssl.create_default_context()
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        try:
            urllib.request.urlopen(server, timeout=PROBE_SECONDS, context=unchecked).close()
        except urllib.error.HTTPError as error:
            return f"{server} returned {error.code}" if error.code >= 500 else None
        return None

    try:
        return within(PROBE_SECONDS, ask)
    except Exception as error:
        return f"{server}: {first_line(error)}"


def within(seconds: float, work: Callable[[], Any], server: str = "") -> Any:
    """Run ``work`` in a thread with a time limit, which name resolution and wandb's own waits lack.

    Args:
        server: which must stay reachable while it takes long.

    Raises:
        TimeoutError: it takes longer; the thread is abandoned and does not delay the exit.
        ConnectionError: the server is unreachable; likewise.
        Exception: raised by ``work``.
    """
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["result"] = work()
        except BaseException as error:  # wandb may also call sys.exit
            outcome["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    end = time.monotonic() + seconds
    while thread.is_alive() and (left := end - time.monotonic()) > 0:
        thread.join(min(left, CHECK_SECONDS) if server else left)
        if server and thread.is_alive() and (reason := why_unreachable(server)):
            raise ConnectionError(reason)
    if thread.is_alive():
        raise TimeoutError(f"no response within {seconds:.0f} s")
    if "error" in outcome:
        error = outcome["error"]
        raise error if isinstance(error, Exception) else RuntimeError(str(error))
    return outcome["result"]
