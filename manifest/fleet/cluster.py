"""The machines of a Ray cluster: the one that `ray start` or `$RAY_ADDRESS` names, or else one of this machine alone.

Each worker must have this package, and find the checkpoints under the same paths or addresses. A call takes one
processor, as Ray counts them. Ray itself would do a call again for ever whose process is short of memory, so it is told
to do none again.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from manifest.errors import InputError, one_line
from manifest.fleet.engines import LostError
from manifest.fleet.processes import processors
from manifest.installing import install_command

_PATIENCE = 10.0
"""Seconds without an answer."""

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 2
"""Calls for each processor that are under way or wait for it."""
_STORE = 100 << 20
"""Bytes of memory for what is passed on, where the cluster is of this machine alone; reports are small."""


def run(function: Callable[[T], R], items: Iterable[T], workers: int | None) -> Iterator[tuple[T, R | LostError]]:
    """See `Engine`.

    Raises:
        InputError: Ray is not installed, or a cluster cannot be reached.
    """
    ray = _imported()
    with _cluster(ray, workers):
        from ray.exceptions import RayTaskError

        call = ray.remote(num_cpus=1, max_retries=0)(lambda function, item: function(item))
        sent = ray.put(function)  # once, and not with each call
        left = iter(items)
        ahead = _AHEAD * int(ray.cluster_resources().get("CPU", 1)) if workers is None else workers
        running: dict[Any, tuple[T, bool]] = {}
        while True:
            for item in islice(left, ahead - len(running)):
                running[call.remote(sent, item)] = item, False
            if not running:
                return
            done, _ = ray.wait(list(running))
            for reference in done:
                item, again = running.pop(reference)
                try:
                    result = ray.get(reference)
                except RayTaskError as error:  # the function raises nothing, so its modules are not there
                    raise InputError(
                        f"A worker of the cluster cannot do it ({one_line(error.cause)}); install there what is here."
                    ) from None
                except ray.exceptions.RayError:
                    if not again:
                        running[call.remote(sent, item)] = item, True
                        continue
                    result = LostError()
                yield item, result


def _imported() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError(
            f"The engine ray needs the library ray, which is not installed: `{install_command('ray')}`"
        ) from None
    return ray


@contextmanager
def _cluster(ray: Any, workers: int | None) -> Iterator[None]:
    """Inside, this process belongs to a cluster; to the one that it belonged to already, if any."""
    if ray.is_initialized():
        yield
        return
    if (address := os.environ.get("RAY_ADDRESS")) is not None:
        _require_reachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # who starts a check tells nobody of it
    try:
        try:
            ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError:  # there is none
            ray.init(
                num_cpus=workers or processors(),
                object_store_memory=_STORE,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise _not_reached(error) from None
    try:
        yield
    finally:
        ray.shutdown()


def _require_reachable(address: str) -> None:
    """Refuse an address where nobody listens, which Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host, int(port)), _PATIENCE).close()
        except OSError as error:
            raise _not_reached(error) from None


def _not_reached(error: Exception) -> InputError:
    return InputError(f"The cluster cannot be reached ({one_line(error)}); check $RAY_ADDRESS.")
