"""``taco doctor``: what would run here, and the times of one frame."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taco.errors import TacoError

if TYPE_CHECKING:
    from taco.backbones.base import Backbones
    from taco.config import ModelsConfig, TacoConfig

NEEDED = ("torch", "numpy", "scipy", "opencv-python-headless", "soxr", "PyYAML", "tflite", "onnx", "onnxruntime")
OPTIONAL = (  # package, what it is for
    ("openvino", "bfloat16"),
    ("torchvision", "paper"),
    ("open_clip_torch", "paper"),
    ("timm", "paper"),
    ("transformers", "paper"),
    ("safetensors", "paper"),
    ("huggingface_hub", "paper"),
    ("av", "video files"),
    ("soundfile", "sound files"),
    ("sounddevice", "microphone"),
    ("aiohttp", "taco live"),
    ("rosbags", "bags"),
    ("rclpy", "ROS"),
)
ALIASES = {"opencv-python-headless": ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``taco doctor``."""
    from taco.cli import add_config_arguments

    parser.add_argument("--no-run", action="store_true", help="do not load the models and run a frame")
    parser.add_argument("--size", default="640x480", metavar="WxH", help="size of the frame of the trial run (default 640x480)")
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the page; exit status 1 where the chosen configuration cannot run."""
    from taco.cli import config_from, print_json
    from taco.errors import ConfigError

    config = config_from(args)
    try:
        width, height = (int(part) for part in args.size.lower().split("x"))
        if not (0 < width <= 10_000 and 0 < height <= 10_000):
            raise ValueError
    except ValueError:
        raise ConfigError(f"--size: wanted WxH in pixels, such as 640x480, got {args.size!r}") from None
    with ThreadPoolExecutor(2) as beside:  # both wait for processes of their own
        middleware, inputs = beside.submit(ros), beside.submit(microphones)
        report: dict[str, Any] = {
            "system": system(),
            "packages": packages(config.models),
            "devices": devices(config.models),
            "weights": weights_state(config.models),
        }
        report |= {"ros": middleware.result(), "microphones": inputs.result()}  # before anything is timed
    problems = [problem for part in ("packages", "devices", "weights") for problem in report[part]["problems"]]
    if not args.no_run and not problems:
        report["trial"] = trial(config, (height, width))
        problems += report["trial"]["problems"]
    report["problems"], report["runs"] = problems, not problems
    if args.json:
        print_json(report)
    else:
        print_page(report, config)
    return int(bool(problems))


def system() -> dict[str, Any]:
    """Machine, Python, processors, memory in GB, and taco itself."""
    from taco import __version__

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = f"{platform.system()} {platform.machine()}"
    return {
        "taco": __version__,
        "machine": machine,
        "python": platform.python_version(),
        "cores": cores,
        "memory_gb": round(memory, 1),
    }


def _version(name: str) -> str | None:
    for one in (name, *ALIASES.get(name, ())):
        try:
            return importlib.metadata.version(one)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def packages(models: ModelsConfig) -> dict[str, Any]:
    """Versions of what is needed and of what is optional; None where it is not installed."""
    from taco.backbones.vendors import missing_paper_packages

    needed = {name: _version(name) for name in NEEDED}
    problems = [f"{name} is not installed; run `pip install {name}`" for name, found in needed.items() if not found]
    if models.name != "embedded" and (lacking := missing_paper_packages()):
        problems.append(f"{', '.join(lacking)}: wanted by the models {models.name}; run `pip install 'taco-sounding[paper]'`")
    return {"needed": needed, "optional": {name: _version(name) for name, _ in OPTIONAL}, "problems": problems}


def devices(models: ModelsConfig) -> dict[str, Any]:
    """GPUs, and the device and number type that the settings choose."""
    import torch

    from taco.backbones.device import resolve_device, resolve_precision

    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        gpus.append({"name": f"cuda:{index}", "model": name, "memory_gb": round(total / 1e9, 1), "free_gb": round(free / 1e9, 1)})
    threads = models.threads or torch.get_num_threads()
    found: dict[str, Any] = {"torch_cuda": torch.version.cuda, "gpus": gpus, "threads": threads, "problems": []}
    try:
        # The embedded models are so small that auto leaves them on the CPU.
        device = resolve_device("cpu" if models.name == "embedded" and models.device == "auto" else models.device)
        found |= {"device": str(device), "precision": str(resolve_precision(models.precision, device)).removeprefix("torch.")}
    except TacoError as error:
        found["problems"] = [str(error)]
    return found


def weights_state(models: ModelsConfig) -> dict[str, Any]:
    """The files of the chosen models that are here, and those that are missing."""
    from taco.backbones import open_models
    from taco.cli.weights import entries
    from taco.package_files import model_dir
    from taco.weights import PACKAGES

    if models.name == "embedded":
        from taco.backbones import embedded_models

        wanted = set(embedded_models.needed_parts(models))
    else:
        own = models.image or open_models.IMAGE_MODEL if models.name == "open" else "openclip"
        wanted = {own} if "=" not in models.image else set()
        wanted |= {models.audio} if models.audio not in ("", "msclap") else {"msclap", "gpt2"}
        if models.segmenter or models.name == "paper":
            wanted |= {models.segmenter or "fcclip"} - {"activation"}
    wanted |= {models.segmenter} if models.segmenter.startswith("sam3") else set()
    known = entries(models.model_dir)
    rows = [row for row in known if row["part"] in wanted]
    lacking = list(dict.fromkeys(row["part"] for row in rows if row["state"] == "missing"))
    problems = []
    if lacking:
        whole = len(lacking) > 1 and set(lacking) == {row["part"] for row in known if models.name in row["set"]}
        embedded = models.name == "embedded" and all(part in PACKAGES and PACKAGES[part].needed for part in lacking)
        parts = models.name if whole or embedded else " ".join(lacking)
        option = f" --dir {models.model_dir}" if models.model_dir else ""
        problems = [f"weights of {', '.join(lacking)} are missing; run `taco weights fetch {parts}{option}`"]
    files = [{key: row[key] for key in ("part", "file", "path", "size_mb", "state", "licence")} for row in rows]
    return {"folder": str(model_dir(models.model_dir)), "files": files, "problems": problems}


def ros() -> dict[str, Any]:
    """ROS distribution, middleware and domain, read in a process of its own."""
    code = (
        "import rclpy, os; from rclpy.utilities import get_rmw_implementation_identifier as rmw; rclpy.init(); "
        "print('|'.join([os.environ.get('ROS_DISTRO', ''), rmw()]))"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"found": False, "why": str(error)}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["rclpy does not load"]
        absent = lines[-1] == "ModuleNotFoundError: No module named 'rclpy'"
        return {"found": False, "why": "not installed (only needed on a robot)" if absent else lines[-1]}
    distro, _, middleware = done.stdout.strip().splitlines()[-1].partition("|")
    return {"found": True, "distro": distro, "middleware": middleware, "domain": int(os.environ.get("ROS_DOMAIN_ID") or 0)}


def microphones() -> dict[str, Any]:
    """Inputs that PortAudio offers, else the sound cards that the kernel knows."""
    try:
        import sounddevice

        found = [
            {"name": device["name"], "channels": device["max_input_channels"], "sample_rate": int(device["default_samplerate"])}
            for device in sounddevice.query_devices()
            if device["max_input_channels"] > 0
        ]
        return {"found": found, "why": ""}
    except (ImportError, OSError) as error:
        cards = Path("/proc/asound/cards")
        lines = cards.read_text().splitlines() if cards.is_file() else []
        found = [{"name": line.partition("]: ")[2]} for line in lines if "]: " in line]
        return {"found": found, "why": f"sounddevice does not load ({str(error).splitlines()[0]})"}
    except Exception as error:  # PortAudio's own error class, where no sound system runs
        return {"found": [], "why": str(error)}


def trial(config: TacoConfig, size: tuple[int, int], backbones: Backbones | None = None) -> dict[str, Any]:
    """Load the chosen models and run a frame, never downloading: seconds, ms by stage, and memory.

    backbones: used instead of the chosen ones.
    """
    from taco.backbones.device import peak_memory_mb
    from taco.pipeline import TacoPipeline

    # Nothing is held back, so that every stage is run and timed on a frame of noise.
    settings = {"models.allow_download": False, "concepts.min_score": 0.0, "concepts.silence_dbfs": -200.0}
    start = time.perf_counter()
    try:
        pipeline = TacoPipeline(config.updated(settings), backbones=backbones)
        loaded = time.perf_counter() - start
        first = pipeline.warm_up(size)
        second = pipeline.warm_up(size)
    except (TacoError, RuntimeError, OSError, ImportError, MemoryError) as error:
        return {"problems": [f"the trial run failed: {' '.join(str(error).split())[:400] or type(error).__name__}"]}
    found: dict[str, Any] = {"load_s": round(loaded, 2), "first_ms": round(sum(first.values()), 1)}
    image = pipeline.backbones.image
    found |= {"engine": getattr(image, "engine", "torch"), "engine_precision": getattr(image, "precision", "")}
    found["stage_ms"] = {name: round(value, 1) for name, value in second.items()}
    device = getattr(pipeline.backbones.image, "device", None)
    found |= {"frame_ms": round(sum(second.values()), 1), "peak_memory_mb": round(peak_memory_mb())}
    if getattr(device, "type", "cpu") == "cuda":
        found["peak_gpu_memory_mb"] = round(peak_memory_mb(device))
    return {**found, "words": len(pipeline.anchors.words), "size": list(size), "problems": []}


def print_page(report: dict[str, Any], config: TacoConfig) -> None:
    """The report as text."""
    about, found, chosen = report["system"], report["packages"], report["devices"]
    print(f"taco {about['taco']}, Python {about['python']}, {about['machine']}, {about['cores']} cores, {about['memory_gb']} GB")
    print("packages  " + ", ".join(f"{name} {version or 'MISSING'}" for name, version in found["needed"].items()))
    purposes = dict(OPTIONAL)
    print("optional  " + ", ".join(f"{name} {seen or f'- ({purposes[name]})'}" for name, seen in found["optional"].items()))
    gpus = ", ".join(f"{g['name']} {g['model']}, {g['free_gb']} of {g['memory_gb']} GB free" for g in chosen["gpus"])
    print(f"GPUs      {gpus or 'none usable'} (torch built for CUDA {chosen['torch_cuda'] or '-'})")
    where = f"{chosen.get('device', '?')} in {chosen.get('precision', '?')}"
    print(f"models    {config.models.name} on {where}, {chosen['threads']} threads")
    print(f"weights   in {report['weights']['folder']}")
    for row in report["weights"]["files"]:
        size = f"{row['size_mb']} MB" if row["size_mb"] is not None else ""
        print(f"          {row['state']:8} {row['file']:38} {size:>10}  {row['licence']}")
    state = report["ros"]
    print(
        "ROS       "
        + (f"{state['distro'] or 'found'}, {state['middleware']}, domain {state['domain']}" if state["found"] else state["why"])
    )
    inputs = report["microphones"]
    names = [
        f"{one['name']}" + (f" ({one['channels']} ch, {one['sample_rate']} Hz)" if "channels" in one else "")
        for one in inputs["found"]
    ]
    print("sound in  " + "; ".join(names or ["none found"]) + (f"  [{inputs['why']}]" if inputs["why"] else ""))
    if "trial" in report and not report["trial"]["problems"]:
        ran = report["trial"]
        stages = ", ".join(f"{name} {value:g}" for name, value in ran["stage_ms"].items())
        print(f"one frame {ran['size'][1]}x{ran['size'][0]}: {ran['frame_ms']:g} ms ({stages}); the first {ran['first_ms']:g} ms")
        print(f"          networks run in {ran['engine']} {ran['engine_precision']}".rstrip())
        gpu = f", on the GPU {ran['peak_gpu_memory_mb']} MB" if "peak_gpu_memory_mb" in ran else ""
        print(f"          loaded in {ran['load_s']:g} s, {ran['words']} words; peak memory {ran['peak_memory_mb']} MB{gpu}")
    for problem in report["problems"]:
        print(f"PROBLEM   {problem}")
    print("This configuration runs." if report["runs"] else "This configuration cannot run.")
