"""The paper's models, from the weights folder: OpenCLIP, and MSCLAP 2023 or another sound model."""

from __future__ import annotations

from pathlib import Path

from taco import weights
from taco.backbones.base import AudioEncoder, Backbones, ImageEncoder
from taco.backbones.checkpoint import is_untrained
from taco.backbones.device import resolve_device
from taco.backbones.embedded_models import general_names
from taco.backbones.engine_export import Runtime
from taco.backbones.vendors import missing_paper_packages
from taco.config import ModelsConfig
from taco.errors import ConfigError, MissingPackageError
from taco.threads import model_threads

IMAGE_MODEL = "convnext_large_d_320"
SOUND_MODELS = ("msclap", "laion-clap", "pe-audio", "pe-audio-video")


def default_words() -> tuple[str, ...]:
    """The 527 names of AudioSet's sound events, in its order (Gemmeke et al. 2017)."""
    return tuple((Path(__file__).parent / "audioset_words.txt").read_text(encoding="utf-8").splitlines())


def other_words() -> tuple[str, ...]:
    """Those of ``default_words`` that name a thing, and no more general kind, place or quality of sound that fits many."""
    general = general_names()
    return tuple(word for word in default_words() if word not in general)


def runtime_of(models: ModelsConfig, auto: str = "torch") -> Runtime:
    """What runs a network of this set; ``auto`` stands for models.engine auto.

    On a CPU, ONNX Runtime is faster for the decoder of masks, and not for the trunk and the sound tower: docs/models.md.
    """
    engine = auto if models.engine == "auto" else models.engine
    return Runtime(engine, models.precision, model_threads(models.threads), gpu=models.device != "cpu")


def load(models: ModelsConfig) -> Backbones:
    """Both encoders; WeightsError names the command that fetches missing weights."""
    check_settings(models)
    image = _image(models)
    return any_word_set(image, load_sound(models, runtime_of(models)))


def any_word_set(image: ImageEncoder, audio: AudioEncoder) -> Backbones:
    """A pair that takes any word, with the default words and those that compete with a bank's."""
    untrained = any(is_untrained(getattr(encoder, "checkpoint", None)) for encoder in (image, audio))
    return Backbones(image, audio, default_words(), other_words(), untrained=untrained)


def check_settings(models: ModelsConfig) -> None:
    """What the settings ask for is known and installed: such errors come before any file is read."""
    resolve_device(models.device)
    if models.audio not in ("", *SOUND_MODELS):
        raise ConfigError(f"models.audio: wanted {', '.join(SOUND_MODELS[:-1])} or {SOUND_MODELS[-1]}, got {models.audio!r}")
    if lacking := missing_paper_packages():
        wanted = f"the models {models.name}: wanted the packages {', '.join(lacking)}, got none"
        raise MissingPackageError(f"{wanted}; run `pip install 'taco-sounding[paper]'`, then `taco weights fetch {models.name}`")


def _image(models: ModelsConfig) -> ImageEncoder:
    from taco.backbones.openclip import OpenCLIPImageEncoder

    name, _, own = models.image.partition("=")
    if name not in ("", IMAGE_MODEL) and not own:
        raise ConfigError(f"models.image: wanted {IMAGE_MODEL}, or {name}=FILE with its weights, got {name}")
    path = Path(own).expanduser() if own else weights.locate("openclip", models)
    return OpenCLIPImageEncoder.from_checkpoint(
        path,
        name or IMAGE_MODEL,
        device=models.device,
        precision=models.precision,
        image_size=models.image_size,
        runtime=runtime_of(models),
    )


def load_sound(models: ModelsConfig, runtime: Runtime) -> AudioEncoder:
    """The sound encoder of ``models.audio``, MSCLAP by default."""
    name = models.audio or SOUND_MODELS[0]
    path = weights.locate(name, models)
    if name == "laion-clap":
        from taco.backbones.laionclap import LAIONCLAPAudioEncoder

        return LAIONCLAPAudioEncoder.from_checkpoint(path.parent, device=models.device, runtime=runtime)
    if name in ("pe-audio", "pe-audio-video"):
        from taco.backbones.pe_audio import PEAudioEncoder

        return PEAudioEncoder.from_folder(path.parent, name, device=models.device)
    from taco.backbones.msclap import MSCLAPAudioEncoder

    tokenizer = weights.locate("gpt2", models).parent
    return MSCLAPAudioEncoder.from_checkpoint(path, device=models.device, tokenizer=tokenizer, runtime=runtime)
