"""The server: takes its place on the network before anything else, tells how to use it, and ends with Ctrl-C."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import torch

from zoo.core.errors import UserError
from zoo.registry.registry import Registry
from zoo.tasks.classification import require_classifier
from zoo.training.building import load_task
from zoo.training.exported import read_trained

try:
    import python_multipart  # noqa: F401, what Starlette reads uploads with
    import uvicorn

    from zoo.serve.application import build_application
    from zoo.serve.uploads import Limits
except ImportError as error:
    raise UserError(f"zoo serve needs {error.name}, which is not installed: pip install 'bestiary[serve]'") from None

CONNECTIONS = 100  # at a time; each may hold an upload in memory
PATIENCE = 3  # seconds that requests under way have when the server ends


def serve(
    registry: Registry,
    checkpoint_file: Path,
    name: str,
    metrics: dict[str, float],
    host: str,
    port: int,
    limits: Limits,
    told: Callable[[str], None],
) -> None:
    """Serve a trained classifier until interrupted.

    Args:
        checkpoint_file: of a run, or exported before.
        name: of the network, for those who use it.
        metrics: what it reached on its test images.
        port: 0 takes any that is free.
        told: called with the address once it is being listened to.

    Raises:
        UserError: the model is no classifier of images, or the address cannot be had.
    """
    with closing(listen(host, port)) as listener:
        task, run = load_task(registry, read_trained(checkpoint_file), checkpoint_file)
        require_classifier(task, f"{run.model['name']} of {run.data['name']}", "zoo serve")
        task.to("cuda" if torch.cuda.is_available() else "cpu")
        application = build_application(task, run, name, metrics, limits)
        config = uvicorn.Config(
            application, http="h11", ws="none", log_level="warning", access_log=False, server_header=False,
            limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=PATIENCE,
        )  # fmt: skip
        told(_address(listener))
        uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections to that address.

    Raises:
        UserError: it cannot be had.
    """
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(place[:2], family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (")[0]
        raise UserError(f"--host {host} --port {port}: cannot be listened to: {reason.lower()}") from None
    # an answer is sent in two parts: without this the second waits 40 ms for the other side to confirm the first
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:  # this machine is one of all that can reach it
        host = "localhost"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
