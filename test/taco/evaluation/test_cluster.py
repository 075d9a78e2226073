"""A Ray cluster of two nodes on this machine: the same results as one process, killed workers, open ports."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from taco import cli, parallel
from taco.errors import ConfigError, MediaError, TacoError
from taco.evaluation import runner
from taco.parallel import ClipExecutor
from test import ROOT
from test.taco.cli.made_inputs import files, lines, make_clip
from test.taco.evaluation import made_datasets, made_models
from test.taco.evaluation.made_models import CONFIG, made, method_runner

pytestmark = pytest.mark.live
STANDIN = ["--set", "models.image=standin"]


@pytest.fixture(scope="module")
def address():
    """Two nodes with a processor each; only what is started here is ended here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        for module in (sys.modules[__name__], made_models):
            ray.cloudpickle.register_pickle_by_value(module)  # the workers cannot import tests
        quiet = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20}
        cluster = Cluster(initialize_head=True, head_node_args=quiet)
        cluster.add_node(**quiet)
        yield cluster.address
        ray.shutdown()
        cluster.shutdown()


def test_every_node_gets_a_worker_and_records_are_those_of_one_process(address, tmp_path):
    items = [(i, clip, [("taco", 0), ("u", 0)]) for i, clip in enumerate(made(6).clips)]
    alone = {item[0]: result for item, result in ClipExecutor().map(Scorer(), items)}
    spread = {item[0]: result for item, result in ClipExecutor("ray", address).map(Scorer(tmp_path, parties=2), items)}
    assert spread == alone and len(list(tmp_path.iterdir())) == 2


@dataclasses.dataclass
class Scorer:
    """Makes workers that begin when there are so many of them on different nodes."""

    meeting: Path | None = None
    parties: int = 0

    def __call__(self):
        self.worker = runner.ClipWorker(runner.Run(made(6), ("taco", "u"), (0,), CONFIG), method_runner())
        return self.work

    def work(self, item):
        if self.parties:
            (self.meeting / ray.get_runtime_context().get_node_id()).touch()
        deadline = time.monotonic() + 60
        while self.parties and len(list(self.meeting.iterdir())) < self.parties and time.monotonic() < deadline:
            time.sleep(0.05)
        return {key: [(r["id"], r["score"], r["iou"].tolist()) for r in rows] for key, rows in self.worker(item).items()}


def test_a_killed_worker_is_started_again_and_its_item_run_again(address, tmp_path):
    flag = tmp_path / "killed"
    results = dict(ClipExecutor("ray", address).map(Fragile(flag, kills=1), range(5)))
    assert results == {i: i * 10 for i in range(5)} and flag.read_text() == "x"


def test_an_item_that_kills_every_worker_ends_the_run(address, tmp_path, monkeypatch):
    flag = tmp_path / "killed"
    monkeypatch.setattr(parallel, "RETRIES", 1)
    with pytest.raises(TacoError, match="the worker of item 3 died, and died again 1 times"):
        list(ClipExecutor("ray", address).map(Fragile(flag, kills=99), range(5)))
    assert 1 <= len(flag.read_text()) <= 4  # a run of an item may also die before it begins


class Fragile:
    """Makes a worker that is killed when it meets item 2, so often."""

    def __init__(self, flag, kills):
        self.flag, self.kills = flag, kills

    def __call__(self):
        return self.work

    def work(self, item):
        met = self.flag.read_text() if self.flag.exists() else ""
        if item == 2 and len(met) < self.kills:
            self.flag.write_text(met + "x")
            os.kill(os.getpid(), signal.SIGKILL)
        return item * 10


@pytest.mark.parametrize("where", ["making", "working"])
def test_an_error_of_a_worker_is_told_as_it_is(address, where):
    def make():
        if where == "making":
            raise MediaError("wanted weights, got none")
        return fails

    def fails(item):
        raise MediaError("wanted weights, got none")

    with pytest.raises(MediaError, match="^wanted weights, got none$"):
        list(ClipExecutor("ray", address).map(make, [1, 2]))


def test_more_workers_than_places_wait_for_one(address):
    assert dict(ClipExecutor("ray", address, workers=5).map(lambda: str, range(6))) == {i: str(i) for i in range(6)}
    with pytest.raises(ConfigError, match="wanted a CPU and 1 GPU for a worker, got a cluster of 2 CPUs"):
        list(ClipExecutor("ray", address, gpus=1).map(lambda: str, [1]))


def test_evaluate_tells_the_same_table(address, tmp_path, capsys):
    data = made_datasets.s4(tmp_path / "s4")
    common = ["evaluate", "s4", "--data", str(data), "--method", "taco", "u", "--json", *STANDIN]
    tables = []
    for options in (["--out", str(tmp_path / "a")], ["--out", str(tmp_path / "b"), "--engine", "ray", "--address", address]):
        assert cli.main([*common, *options]) == 0
        result = json.loads(capsys.readouterr().out)
        for figures in result["rows"].values():
            figures.pop("ms")
        tables.append(result)
    assert tables[0] == tables[1] and tables[0]["frames"] == 10
    assert len(list((tmp_path / "b").rglob("*.npz"))) == 2


def test_segment_of_many_files_gives_the_same_files(address, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "things").mkdir()
    for number, seconds in enumerate((0.6, 0.4, 0.5)):
        make_clip(tmp_path / f"things/clip{number}.mp4", seconds)
    assert cli.main(["segment", "things", "-o", "alone", *STANDIN]) == 0
    assert cli.main(["segment", "things", "-o", "spread", *STANDIN, "--engine", "ray", "--address", address]) == 0
    assert files("spread") == files("alone") and len(files("alone")) >= 9
    for name in files("alone"):
        if name.endswith((".png", ".mp4")):
            assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "spread" / name).read_bytes(), name
    for number in range(3):
        one, two = (lines(f"{out}/clip{number}") for out in ("alone", "spread"))
        for record in (*one, *two):
            record.pop("stage_ms", None)
        assert one == two and len(one) == (6, 4, 5)[number]
    assert capsys.readouterr().out.count(" frames, ") == 6


def test_no_cluster_at_the_address_is_one_line(tmp_path, capsys):
    clip = make_clip(tmp_path / "clip.mp4", 0.2)
    for address in ("127.0.0.1:1", "127.0.0.1:x", "nowhere"):
        options = ["--engine", "ray", "--address", address]
        assert cli.main(["segment", str(clip), "-o", str(tmp_path / "out"), *STANDIN, *options]) == 2
        error = capsys.readouterr().err
        assert error.startswith("taco: --address: wanted a running Ray cluster, got ") and error.count("\n") == 1


def test_a_cluster_of_its_own_talks_to_this_machine_alone(tmp_path):
    """In a process of its own, as Ray reads its switches once."""
    code = """
        import os, pathlib, sys, time
        from taco.parallel import ClipExecutor
        def make():
            return look
        def look(item):
            import ray
            meeting = pathlib.Path(item)
            (meeting / str(os.getpid())).touch()
            deadline = time.monotonic() + 60
            while len(list(meeting.iterdir())) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            return ray.util.get_node_ip_address(), os.environ["RAY_USAGE_STATS_ENABLED"]
        if __name__ == "__main__":
            print({told for _, told in ClipExecutor("ray", "local", workers=2).map(make, [sys.argv[1]] * 4)})
    """
    script = tmp_path / "own.py"
    script.write_text(textwrap.dedent(code))
    (meeting := tmp_path / "meeting").mkdir()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, script, meeting], env=env, capture_output=True, text=True, timeout=100, check=False)
    assert run.stdout.strip() == "{('127.0.0.1', '0')}" and len(list(meeting.iterdir())) == 2, run.stderr
