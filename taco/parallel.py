"""Working on clips in this process or on a Ray cluster, with the same results."""

from __future__ import annotations

import argparse
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from taco.config import TacoConfig
from taco.errors import ConfigError, MissingPackageError, TacoError

Item = TypeVar("Item")
Result = TypeVar("Result")
RETRIES = 3  # ours: of an item whose worker died, so that an item that kills every worker does not run for ever
# A cluster that we start ourselves talks to nobody: no report of its use to Ray's makers, and its ports are open to this
# machine alone (the name of that switch is Ray's; it makes every process listen on the loopback address) and ask for a token.
PRIVATE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}


@dataclass(frozen=True, slots=True)
class ClipExecutor:
    """Runs a worker over items, such as clips.

    name: "local" or "ray".
    address: of the cluster; "auto" is the one this machine belongs to, "local" a new one here.
    workers: how many processes hold a set of models; 0 for one a node, or one a GPU where they take one.
    gpus: GPUs of each; None for one where the cluster has any (Ray hides a machine's GPUs from workers that ask for none).
    """

    name: str = "local"
    address: str = "auto"
    workers: int = 0
    gpus: float | None = 0.0

    def __post_init__(self) -> None:
        if self.name not in ("local", "ray"):
            raise ConfigError(f"--engine: wanted local or ray, got {self.name!r}")

    def map(self, make: Callable[[], Callable[[Item], Result]], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        """(item, result) as they get ready. make() builds a worker once per process; worker(item) gives its result.

        With Ray a worker that was killed is built again and its item run again, up to RETRIES times an item.
        """
        if self.name == "ray":
            yield from self._ray(make, list(items))
            return
        worker = make()
        for item in items:
            yield item, worker(item)

    def _ray(self, make: Callable[[], Callable[[Item], Result]], items: list[Item]) -> Iterator[tuple[Item, Result]]:
        ray = _imported(private=self.address == "local")
        started = not ray.is_initialized()
        if started:
            self._connect(ray)
        try:
            # An actor that dies is started again, and what it was asked is asked again.
            count, gpus = self.places(ray.cluster_resources(), sum(1 for node in ray.nodes() if node["Alive"]))
            options = {"max_restarts": -1, "max_task_retries": RETRIES, "num_cpus": 1, "num_gpus": gpus}
            remote = ray.remote(**options)(_Holder)
            holders = [remote.remote(make) for _ in range(min(count, len(items)))]
            # A holder gets its first item when it runs: on a busy cluster some may have to wait for their place.
            waiting: dict[Any, tuple[int | None, Any]] = {holder.ready.remote(): (None, holder) for holder in holders}
            todo, left = iter(range(len(items))), len(items)
            while left:
                (ready, *_), _ = ray.wait(list(waiting))
                number, holder = waiting.pop(ready)
                result = _result(ray, ready, number)
                following = next(todo, None)
                if following is not None:
                    waiting[holder.work.remote(items[following])] = following, holder
                if number is not None:
                    left -= 1
                    yield items[number], result
        finally:
            if started:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        """Join the cluster, or start one here with room for the workers."""
        quiet = {"log_to_driver": False, "logging_level": "error"}
        logging.getLogger("ray").setLevel(logging.ERROR)
        if self.address == "local":
            ray.init(address="local", num_cpus=max(self.workers, os.cpu_count() or 1), include_dashboard=False, **quiet)
            return
        try:
            _answers(self.address)
            ray.init(address=self.address, **quiet)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ConfigError(f"--address: wanted a running Ray cluster, got {error}; run `ray start --head`") from None

    def places(self, has: Mapping[str, float], nodes: int) -> tuple[int, float]:
        """(workers, GPUs of each) on a cluster that has so many "CPU" and "GPU"; ConfigError where it has no place for one."""
        cpus, total = has.get("CPU", 0.0), has.get("GPU", 0.0)
        gpus = float(total >= 1) if self.gpus is None else self.gpus
        if cpus < 1 or total < gpus:
            wanted = "a CPU" + (f" and {gpus:g} GPU" if gpus else "")
            raise ConfigError(f"--engine ray: wanted {wanted} for a worker, got a cluster of {cpus:g} CPUs and {total:g} GPUs")
        return self.workers or (int(total // gpus) if gpus else nodes), gpus


def _imported(private: bool) -> Any:
    if private:
        for name, value in PRIVATE.items():
            os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise MissingPackageError(
            "--engine ray: wanted the package ray, got none; run `pip install 'taco-sounding[ray]'`"
        ) from None
    return ray


def _answers(address: str) -> None:
    """OSError where nobody listens at HOST:PORT; Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "://" not in address:
        socket.create_connection((host, int(port)), timeout=5).close()


def _result(ray: Any, ready: Any, number: int | None) -> Any:
    """What a worker answered; its own error where it raised one."""
    try:
        return ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause or error) from None
    except ray.exceptions.RayError as error:
        what = "a worker" if number is None else f"the worker of item {number + 1}"
        reason = str(error).strip().splitlines()[-1]
        raise TacoError(f"--engine ray: {what} died, and died again {RETRIES} times when it was run again: {reason}") from None


def add_executor_arguments(parser: argparse.ArgumentParser) -> None:
    """``--engine``, ``--address`` and ``--workers``."""
    parser.add_argument("--engine", default="local", metavar="E", help="local, or ray: spread the work over a Ray cluster")
    parser.add_argument("--address", default="auto", help="of the Ray cluster; local starts one on this machine")
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes on the cluster (default: one a node or GPU)"
    )


def executor_from(args: argparse.Namespace, config: TacoConfig) -> ClipExecutor:
    """The engine of ``add_engine_arguments``; each worker takes a GPU where the models run, or may run, on one."""
    if args.workers < 0:
        raise ConfigError(f"--workers: wanted 0 or more, got {args.workers}")
    device = str(config.models.device)
    return ClipExecutor(args.engine, args.address, args.workers, None if device == "auto" else float(device.startswith("cuda")))


class _Holder:
    """A process of the cluster that keeps one worker, built with its first item, so that its errors are the item's."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]):
        self._make = make
        self._worker: Callable[[Any], Any] | None = None

    def ready(self) -> None:
        """The process runs."""

    def work(self, item: Any) -> Any:
        """The worker's result."""
        self._worker = self._worker or self._make()
        return self._worker(item)
