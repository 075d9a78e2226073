"""Where clips are worked on: in this process, or spread over a Ray cluster with the same results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from taco.errors import ConfigError, MissingPackageError


@dataclass(frozen=True, slots=True)
class Engine:
    """name: "local" or "ray". address: of the cluster ("auto": the one this machine belongs to; "local": a new one here).

    workers: how many processes hold a set of models, 0 one for each node; gpus: GPUs of each.
    """

    name: str = "local"
    address: str = "auto"
    workers: int = 0
    gpus: float = 0.0

    def __post_init__(self):
        if self.name not in ("local", "ray"):
            raise ConfigError(f"--engine: wanted local or ray, got {self.name!r}")

    def map(self, make: Callable[[], Callable], items: Iterable) -> Iterator[tuple]:
        """(item, result) as they get ready. make() builds a worker once per process; worker(item) gives its result.

        With Ray a worker that was killed is built again and its item run again.
        """
        if self.name == "ray":
            yield from self._ray(make, list(items))
            return
        worker = make()
        for item in items:
            yield item, worker(item)

    def _ray(self, make: Callable[[], Callable], items: list) -> Iterator[tuple]:
        try:
            import ray
        except ImportError:
            raise MissingPackageError(
                "--engine ray: wanted the package ray, got none; run `pip install 'taco-sounding[ray]'`"
            ) from None
        started = not ray.is_initialized()
        if started:
            try:
                ray.init(address=None if self.address == "local" else self.address, log_to_driver=False, logging_level="warning")
            except ConnectionError as error:
                raise ConfigError(f"--address: wanted a running Ray cluster, got {error}; run `ray start --head`") from None
        try:
            count = self.workers or sum(1 for node in ray.nodes() if node["Alive"])
            # An actor that dies is started again, and what it was asked is asked again.
            remote = ray.remote(max_restarts=-1, max_task_retries=-1, num_cpus=1, num_gpus=self.gpus)(_Holder)
            holders = [remote.remote(make) for _ in range(min(count, len(items)))]
            waiting, todo = {}, iter(range(len(items)))

            def ask(holder) -> None:
                number = next(todo, None)
                if number is not None:
                    waiting[holder.work.remote(items[number])] = number, holder

            for holder in holders:
                ask(holder)
            while waiting:
                (ready, *_), _ = ray.wait(list(waiting))
                number, holder = waiting.pop(ready)
                try:
                    result = ray.get(ready)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                ask(holder)
                yield items[number], result
        finally:
            if started:
                ray.shutdown()


def add_engine_arguments(parser) -> None:
    """``--engine``, ``--address`` and ``--workers``."""
    parser.add_argument("--engine", default="local", metavar="E", help="local, or ray: spread the work over a Ray cluster")
    parser.add_argument("--address", default="auto", help="of the Ray cluster; local starts one on this machine")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes on the cluster (default: one a node)")


def engine_from(args, config) -> Engine:
    """The engine of ``add_engine_arguments``; each worker takes a GPU where the models run on one."""
    if args.workers < 0:
        raise ConfigError(f"--workers: wanted 0 or more, got {args.workers}")
    return Engine(args.engine, args.address, args.workers, float(str(config.models.device).startswith("cuda")))


class _Holder:
    """A process of the cluster that keeps one worker."""

    def __init__(self, make: Callable[[], Callable]):
        self._worker = make()

    def work(self, item):
        """The worker's result."""
        return self._worker(item)
