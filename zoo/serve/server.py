"""The HTTP server: binds its port before loading the network, and runs until Ctrl-C."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import torch

from zoo.core.errors import UserError
from zoo.registry.registry import Registry
from zoo.tasks.images import require_image_model
from zoo.training.building import load_task
from zoo.training.exported import read_trained

try:
    import python_multipart  # noqa: F401, needed by Starlette for uploads
    import uvicorn

    from zoo.serve.application import ANY_ADDRESS, Application
    from zoo.serve.connections import TimedProtocol
    from zoo.serve.uploads import Limits
except ImportError as error:
    raise UserError(f"zoo serve needs {error.name}, which is not installed: pip install 'bestiary[serve]'") from None

CONNECTIONS = 100  # concurrent; each may hold an upload in memory
PATIENCE = 3  # seconds for pending requests at shutdown


def serve(
    registry: Registry,
    checkpoint_file: Path,
    name: str,
    metrics: dict[str, float],
    host: str,
    port: int,
    limits: Limits,
    on_ready: Callable[[str], None],
    allowed_hosts: Sequence[str] = (),
) -> None:
    """Serve a trained classifier until interrupted.

    Args:
        checkpoint_file: of a run, or an exported file.
        name: shown to users.
        metrics: test metrics.
        port: 0 picks a free one.
        on_ready: called with the URL.
        allowed_hosts: names under which it is reached, beside localhost and ``host``.

    Raises:
        UserError: not an image classifier, or the address is not available.
    """
    with closing(listen(host, port)) as listener:
        task, run = load_task(registry, read_trained(checkpoint_file), checkpoint_file)
        require_image_model(task, f"{run.model['name']} of {run.data['name']}", "zoo serve")
        task.to("cuda" if torch.cuda.is_available() else "cpu")
        application = Application(task, run, name, metrics, limits, hosts=[*_hosts(listener, host), *allowed_hosts])
        config = uvicorn.Config(
            application, http=TimedProtocol, ws="none", log_level="warning", access_log=False, server_header=False,
            limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=PATIENCE,
        )  # fmt: skip
        on_ready(_address(listener))
        uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Raises:
        UserError: the address is not available.
    """
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(place[:2], family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (")[0]
        raise UserError(f"--host {host} --port {port}: cannot listen: {reason.lower()}") from None
    # responses are sent in two parts; with Nagle's algorithm the second would wait 40 ms
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _hosts(listener: socket.socket, host: str) -> list[str]:
    """The names and addresses that a listener is reached by."""
    address = listener.getsockname()[0]
    return [host, ANY_ADDRESS if ipaddress.ip_address(address).is_unspecified else address]


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:  # reachable as localhost too
        host = "localhost"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
