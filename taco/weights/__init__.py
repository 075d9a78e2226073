"""The weights of the paper's models: what is needed, where it comes from, and whether it is here.

Nothing here touches the network unless ``fetch`` is called, by `taco weights fetch` or by a start with
``models.allow_download``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from taco.config import ModelsConfig
from taco.errors import WeightsError
from taco.package_files import model_dir, say
from taco.weights import checksums
from taco.weights.download import download


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One file of a model. path: below the weights folder. size_mb: about. source: "hub:REPO" or an https address."""

    path: str
    size_mb: float
    source: str

    @property
    def name(self) -> str:
        """The file's name at its source and here."""
        return Path(self.path).name


@dataclass(frozen=True, slots=True)
class Part:
    """A model's weights. needed_by: the model set. first, when several: the main file."""

    name: str
    what: str
    licence: str
    files: tuple[WeightsFile, ...]
    needed_by: str = "paper"
    by_hand: str = ""


_DRIVE = "1-91PIns86vyNaL3CzMmDD39zKGnPMtvj"
_LAION = "laion/clap-htsat-unfused"
PARTS = (
    Part(
        "openclip",
        "OpenCLIP convnext_large_d_320, laion2b_s29b_b131k_ft_soup",
        "MIT",
        (
            WeightsFile(
                "paper/open_clip_pytorch_model.safetensors",
                1407,
                "hub:laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup",
            ),
        ),
    ),
    Part("msclap", "MSCLAP 2023", "MS-PL", (WeightsFile("paper/CLAP_weights_2023.pth", 690, "hub:microsoft/msclap"),)),
    Part(
        "gpt2",
        "GPT-2's vocabulary, for MSCLAP's words",
        "MIT",
        (
            WeightsFile("paper/gpt2/vocab.json", 1.0, "hub:openai-community/gpt2"),
            WeightsFile("paper/gpt2/merges.txt", 0.5, "hub:openai-community/gpt2"),
        ),
    ),
    Part(
        "fcclip",
        "FC-CLIP, ConvNeXt-L, COCO panoptic",
        "Apache-2.0 (code; the weights state none)",
        (
            WeightsFile(
                "paper/fcclip_cocopan.pth",
                84,
                f"https://drive.usercontent.google.com/download?id={_DRIVE}&export=download&confirm=t",
            ),
        ),
        by_hand=(
            f"open https://drive.google.com/file/d/{_DRIVE}/view in a browser, save fcclip_cocopan.pth in some folder "
            "DIR and run `taco weights fetch fcclip --from DIR`"
        ),
    ),
    Part(
        "laion-clap",
        "LAION CLAP, HTS-AT, unfused (models.audio: laion-clap)",
        "Apache-2.0",
        tuple(
            WeightsFile(f"laion-clap/{name}", size, f"hub:{_LAION}")
            for name, size in (
                ("pytorch_model.bin", 615),
                ("config.json", 0.01),
                ("preprocessor_config.json", 0.01),
                ("tokenizer.json", 2.1),
                ("tokenizer_config.json", 0.01),
                ("special_tokens_map.json", 0.01),
                ("vocab.json", 0.8),
                ("merges.txt", 0.5),
            )
        ),
        needed_by="",
    ),
)
# Other forms of the same weights that are taken where the first one is not there.
ALTERNATIVES = {"open_clip_pytorch_model.safetensors": ("open_clip_pytorch_model.bin", "open_clip_model.safetensors")}


def parts(name: str) -> tuple[Part, ...]:
    """The parts that a name stands for: a part, "paper" or "all"; WeightsError names the known ones."""
    found = tuple(part for part in PARTS if name in (part.name, part.needed_by, "all"))
    if not found:
        raise WeightsError(f"weights: wanted paper, all, {', '.join(part.name for part in PARTS)} or embedded, got {name!r}")
    return found


def path_of(file: WeightsFile, folder: Path) -> Path:
    """Where the file is, or an equal one in another form, or else where it would be."""
    path = folder / file.path
    others = (path.with_name(name) for name in ALTERNATIVES.get(path.name, ()))
    return next((one for one in (path, *others) if one.is_file()), path)


def missing(name: str, setting: str = "") -> list[WeightsFile]:
    """The files of a name that are not in the weights folder (setting: ``models.model_dir``)."""
    folder = model_dir(setting)
    return [file for part in parts(name) for file in part.files if not path_of(file, folder).is_file()]


def locate(name: str, models: ModelsConfig) -> Path:
    """The main file of a part, checked against its record; fetched where missing and ``models.allow_download``."""
    part = parts(name)[0]
    folder = model_dir(models.model_dir)
    absent = missing(name, models.model_dir)
    if absent:
        if not models.allow_download:
            option = f" --dir {models.model_dir}" if models.model_dir else ""
            raise WeightsError(
                f"{part.what}: wanted {folder / absent[0].path}, not found; run `taco weights fetch {part.name}{option}` "
                "(or set models.allow_download)"
            )
        fetch(part, folder)
    found = [path_of(file, folder) for file in part.files]
    for path in found:
        checksums.check(path)
    return found[0]


def fetch(part: Part, folder: Path, *, source: Path | None = None, url: str = "", report: Callable[[str], None] = say) -> None:
    """Bring the files of a part into the weights folder; files that are there and sound are left alone.

    source: a folder to copy them from instead of the network. url: another address of a part of one file.
    """
    for file in part.files:
        path = path_of(file, folder)
        if path.is_file() and not source:
            checksums.check(path)
            report(f"{file.name}: there already, {path}")
            continue
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if source:
            path = _copy(file, source, path)
        else:
            _from_network(part, file, path, url)
        _refuse_web_page(path, part)
        digest = checksums.record(path)
        report(f"{file.name}: {path.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}")


def _copy(file: WeightsFile, source: Path, path: Path) -> Path:
    names = (file.name, *ALTERNATIVES.get(file.name, ()))
    places = [
        folder / name
        for name in names
        for folder in (source, source / Path(file.path).parent, source / Path(file.path).parent.name)
    ]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise WeightsError(f"{file.name}: wanted it in {source}, not found; put the file there under that name")
    path = path.with_name(found.name)
    if found.resolve() == path.resolve():
        return path
    part = path.with_name(path.name + ".part")
    shutil.copyfile(found, part)
    os.replace(part, path)
    return path


def _from_network(part: Part, file: WeightsFile, path: Path, url: str) -> None:
    hint = part.by_hand or f"copy {file.name} from a machine that has it and run `taco weights fetch {part.name} --from DIR`"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise WeightsError(f"{file.name}: not fetched, HF_HUB_OFFLINE is set; {hint}")
    try:
        if url or not file.source.startswith("hub:"):
            download(url or file.source, path)
        else:
            _from_hub(file, path)
    except WeightsError as error:
        raise WeightsError(f"{error}; {hint}") from None


def _from_hub(file: WeightsFile, path: Path) -> None:
    """Through huggingface_hub: its resuming, its progress bar, its tokens and mirrors ($HF_ENDPOINT)."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ModuleNotFoundError:
        raise WeightsError(f"{file.name}: huggingface_hub is not installed; run `pip install huggingface_hub`") from None
    repository = file.source.removeprefix("hub:")
    staging = path.parent / f".{path.name}.hub"
    try:
        found = Path(hf_hub_download(repository, file.name, local_dir=staging))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(f"{file.name}: wanted it from {repository} on the model hub, got {said[0][:200]}") from None
    os.replace(found, path)
    shutil.rmtree(staging, ignore_errors=True)


def _refuse_web_page(path: Path, part: Part) -> None:
    with open(path, "rb") as stream:
        head = stream.read(256).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html")):
        path.unlink()
        hint = part.by_hand or "get the file itself, not its page"
        raise WeightsError(f"{path.name}: wanted weights, got a web page (HTML); deleted; {hint}")
