"""Checkpoints with random weights in the originals' own formats, key names and extra keys.

The names are those of msclap's and FC-CLIP's own modules, written out here on their own, so that the
loaders' key maps are checked against something else than themselves. Every tensor is drawn from a
generator seeded by its name: the same on every machine, which the reference figures rely on.
"""

from __future__ import annotations

import json
import logging
import tempfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch

TINY_CHANNELS = (24, 32, 48, 64)  # of timm's test_convnext
FULL_CHANNELS = (192, 384, 768, 1536)


def draw(name: str, *shape: int, seed: int = 0) -> torch.Tensor:
    """Random values of a size that keeps a deep network alive."""
    noise = np.random.RandomState(zlib.crc32(name.encode()) + seed).standard_normal(shape).astype(np.float32)
    if "running_var" in name:
        return torch.from_numpy(np.abs(noise) * 50 + 100)
    if "running_mean" in name:
        return torch.from_numpy(noise * 5 - 20)
    if len(shape) >= 2 and not any(word in name for word in ("query", "level_embed", "relative", "wte", "void")):
        fan_in = shape[0] if ".c_" in name else int(np.prod(shape[1:]))  # GPT-2 stores (in, out)
        return torch.from_numpy(noise / np.sqrt(np.float32(fan_in)))
    if len(shape) >= 2:
        return torch.from_numpy(noise * (0.3 if "relative" in name or "wpe" in name else 1.0))
    is_scale = name.endswith("weight")
    return torch.from_numpy(noise * np.float32(0.1) + np.float32(is_scale))


def msclap(*, text_layers: int = 12, text_width: int = 768, vocabulary: int = 50257, fill=draw) -> dict[str, torch.Tensor]:
    """MSCLAP 2023's ``model``; its sound tower always has its true size, 33 million parameters."""
    out: dict[str, torch.Tensor] = {"logit_scale": torch.tensor(2.5)}

    def add(name: str, *shape: int) -> None:
        out[name] = fill(name, *shape)

    def pair(name: str, rows: int, *columns: int) -> None:
        add(f"{name}.weight", rows, *columns)
        add(f"{name}.bias", rows)

    base = "audio_encoder.base.htsat."
    add(base + "spectrogram_extractor.stft.conv_real.weight", 513, 1, 1024)
    add(base + "spectrogram_extractor.stft.conv_imag.weight", 513, 1, 1024)
    out[base + "logmel_extractor.melW"] = torch.from_numpy(mel_matrix())
    pair(base + "bn0", 64)
    add(base + "bn0.running_mean", 64)
    add(base + "bn0.running_var", 64)
    out[base + "bn0.num_batches_tracked"] = torch.tensor(1000.0)  # as a float, like the real file
    pair(base + "patch_embed.proj", 96, 1, 4, 4)
    pair(base + "patch_embed.norm", 96)
    for layer, (depth, heads) in enumerate(zip((2, 2, 6, 2), (4, 8, 16, 32))):
        width = 96 * 2**layer
        for block in range(depth):
            name = f"{base}layers.{layer}.blocks.{block}."
            pair(name + "norm1", width)
            add(name + "attn.relative_position_bias_table", 225, heads)
            out[name + "attn.relative_position_index"] = relative_index().float()
            pair(name + "attn.qkv", 3 * width, width)
            pair(name + "attn.proj", width, width)
            pair(name + "norm2", width)
            pair(name + "mlp.fc1", 4 * width, width)
            pair(name + "mlp.fc2", width, 4 * width)
            if block % 2 and layer < 3:
                out[name + "attn_mask"] = torch.zeros(64 // 4**layer, 64, 64)
        if layer < 3:
            add(f"{base}layers.{layer}.downsample.reduction.weight", 2 * width, 4 * width)
            pair(f"{base}layers.{layer}.downsample.norm", 4 * width)
    pair(base + "norm", 768)
    pair(base + "tscam_conv", 527, 768, 2, 3)
    pair(base + "head", 527, 527)
    for tower, width in (("audio_encoder", 768), ("caption_encoder", text_width)):
        add(f"{tower}.projection.linear1.weight", 1024, width)
        add(f"{tower}.projection.linear2.weight", 1024, 1024)
        pair(f"{tower}.projection.layer_norm", 1024)
    text = "caption_encoder.base."
    add(text + "wte.weight", vocabulary, text_width)
    add(text + "wpe.weight", 1024, text_width)
    for layer in range(text_layers):
        name = f"{text}h.{layer}."
        pair(name + "ln_1", text_width)
        pair(name + "ln_2", text_width)
        for part, rows, columns in (("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1), ("mlp.c_fc", 1, 4), ("mlp.c_proj", 4, 1)):
            add(f"{name}{part}.weight", rows * text_width, columns * text_width)
            add(f"{name}{part}.bias", columns * text_width)
        out[name + "attn.bias"] = torch.ones(1, 1, 1024, 1024).tril()
        out[name + "attn.masked_bias"] = torch.tensor(-1e4)
    pair(text + "ln_f", text_width)
    return out


def relative_index() -> torch.Tensor:
    """(64, 64): which entry of the bias table a pair of places in an 8 x 8 window has."""
    y, x = np.divmod(np.arange(64), 8)
    return torch.from_numpy((y[:, None] - y + 7) * 15 + (x[:, None] - x + 7))


def mel_matrix() -> np.ndarray:
    """(513, 64) triangles; like the real one in kind, not in numbers: the loader must take the file's."""
    centres = np.linspace(0, 512, 66) ** 1.5 / 512**0.5
    bins = np.arange(513)[:, None]
    rising = (bins - centres[:-2]) / np.diff(centres)[:-1]
    falling = (centres[2:] - bins) / np.diff(centres)[1:]
    return (np.clip(np.minimum(rising, falling), 0, None) * 0.03 + 1e-6).astype(np.float32)


def fcclip(
    channels=FULL_CHANNELS, *, width=256, queries=250, encoder_layers=6, decoder_layers=9, wide_encoder=1024, wide=2048, fill=draw
) -> dict[str, torch.Tensor]:
    """FC-CLIP's ``model`` without the CLIP trunk, as its checkpoint has it."""
    out: dict[str, torch.Tensor] = {}

    def add(name: str, *shape: int) -> None:
        out[name] = fill(name, *shape)

    def pair(name: str, rows: int, *columns: int) -> None:
        add(f"{name}.weight", rows, *columns)
        add(f"{name}.bias", rows)

    pixel, predictor = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."
    for index, wide_in in enumerate(reversed(channels[1:])):
        pair(f"{pixel}input_proj.{index}.0", width, wide_in, 1, 1)
        pair(f"{pixel}input_proj.{index}.1", width)
    add(pixel + "transformer.level_embed", 3, width)
    for layer in range(encoder_layers):
        name = f"{pixel}transformer.encoder.layers.{layer}."
        pair(name + "self_attn.sampling_offsets", 192, width)
        pair(name + "self_attn.attention_weights", 96, width)
        pair(name + "self_attn.value_proj", width, width)
        pair(name + "self_attn.output_proj", width, width)
        pair(name + "norm1", width)
        pair(name + "linear1", wide_encoder, width)
        pair(name + "linear2", width, wide_encoder)
        pair(name + "norm2", width)
    pair(pixel + "mask_features", width, width, 1, 1)
    add(pixel + "adapter_1.weight", width, channels[0], 1, 1)
    pair(pixel + "adapter_1.norm", width)
    add(pixel + "layer_1.weight", width, width, 3, 3)
    pair(pixel + "layer_1.norm", width)
    out[predictor + "logit_scale"] = torch.tensor(3.0)
    for layer in range(decoder_layers):
        for name, attention in (
            ("transformer_self_attention_layers", "self_attn"),
            ("transformer_cross_attention_layers", "multihead_attn"),
        ):
            name = f"{predictor}{name}.{layer}."
            add(f"{name}{attention}.in_proj_weight", 3 * width, width)
            add(f"{name}{attention}.in_proj_bias", 3 * width)
            pair(f"{name}{attention}.out_proj", width, width)
            pair(name + "norm", width)
        name = f"{predictor}transformer_ffn_layers.{layer}."
        pair(name + "linear1", wide, width)
        pair(name + "linear2", width, wide)
        pair(name + "norm", width)
    pair(predictor + "decoder_norm", width)
    add(predictor + "query_feat.weight", queries, width)
    add(predictor + "query_embed.weight", queries, width)
    add(predictor + "level_embed.weight", 3, width)
    for layer in range(3):
        pair(f"{predictor}mask_embed.layers.{layer}", width, width)
        pair(f"{predictor}class_embed.layers.{layer}", 768 if layer == 2 else width, width)
    pair(predictor + "_mask_pooling_proj.0", width)
    pair(predictor + "_mask_pooling_proj.1", width, width)
    add("void_embedding.weight", 1, 768)
    out["criterion.empty_weight"] = torch.ones(134)
    return out


TINY_FCCLIP = {
    "channels": TINY_CHANNELS,
    "width": 64,
    "queries": 20,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "wide_encoder": 96,
    "wide": 128,
}


def save_fcclip(path, **sizes) -> None:
    """As detectron2 saves a training run."""
    torch.save(
        {"model": fcclip(**sizes), "iteration": 9, "trainer": {"hooks": {"LRScheduler": {"last_lr": np.float64(1e-4)}}}}, path
    )


def tiny_clip():
    """A CLIP of open_clip's own classes with a ConvNeXt trunk of 4.8 million parameters, drawn by name."""
    return _drawn_clip(TINY_NAME, TINY_CONFIG)


def tiny_mobileclip():
    """The same of MobileCLIP2's classes: FastViT with branches, squeeze-and-excite and attention, as MobileCLIP2-S0 has them."""
    from taco.backbones.vendors import import_open_clip

    import_open_clip()
    from timm.models import is_model, register_model
    from timm.models.fastvit import FastVit, RepConditionalPosEnc

    if not is_model("taco_test_fastvit"):

        @register_model
        def taco_test_fastvit(pretrained=False, **options):
            mixers = ("repmixer", "repmixer", "repmixer", "attention")
            positions = (None, None, None, partial(RepConditionalPosEnc, spatial_shape=(7, 7)))
            sizes = {"layers": (1, 1, 1, 1), "embed_dims": (16, 16, 32, 32), "mlp_ratios": (2, 2, 2, 2)}
            sizes |= {key: value for key, value in options.items() if key in ("num_classes", "global_pool")}
            squeezed = (False, False, True, True)
            model = FastVit(token_mixers=mixers, pos_embs=positions, se_downsamples=squeezed, lkc_use_act=True, **sizes)
            model.feature_info = [{"num_chs": 32, "reduction": 32, "module": "stages.3"}]
            return model

        taco_test_fastvit.__module__ = "timm.models.fastvit"
    return _drawn_clip(TINY_MOBILE_NAME, TINY_MOBILE_CONFIG)


def _drawn_clip(name, config):
    from taco.backbones.vendors import import_open_clip

    open_clip = import_open_clip()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(Path(folder) / f"{name}.json")
    logging.disable(logging.WARNING)  # open_clip: no weights are loaded
    model = open_clip.create_model(name, pretrained=None).eval()
    logging.disable(logging.NOTSET)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key != "logit_scale" and value.is_floating_point() and "running_" not in key:
                value.copy_(draw(key, *value.shape))
    return model, open_clip.get_tokenizer(name)


# The inputs of the reference figures in reference_figures.npz, which tools/parity.py took from the original packages.
WORDS = ("dog", "Male speech, man speaking", "Hey! you", "a " * 90)
TINY_SIDE = 124  # px: 128 with padding
TINY_TEXT = {"text_layers": 2, "text_width": 128}


def sound(rate: int = 44100, seconds: float = 1.0) -> np.ndarray:
    """A second of two tones and noise."""
    t = np.arange(round(rate * seconds)) / rate
    noise = np.random.RandomState(1).standard_normal(len(t))
    return (0.2 * np.sin(2 * np.pi * 440 * t) + 0.1 * np.sin(2 * np.pi * 2500 * t * (1 + t)) + 0.02 * noise).astype(np.float32)


def picture(height: int = 100, width: int = 150) -> np.ndarray:
    """(H, W, 3) uint8: blobs of colour, with noise."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (7 + 3 * c)) * np.cos(y / (5 + 4 * c)) for c in range(3)]
    noise = np.random.RandomState(2).standard_normal((height, width, 3)) * 20
    return (128 + 90 * np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8)


def prompts(count: int = 8, width: int = 768) -> torch.Tensor:
    """(count, width) rows as a factorization gives them: none negative, the last one all zero."""
    rows = torch.from_numpy(np.random.RandomState(3).standard_normal((count, width)).astype(np.float32)).clamp(min=0)
    rows[-1] = 0
    return rows


TINY_NAME = "taco-test-convnext"
TINY_CONFIG = {
    "embed_dim": 768,
    "vision_cfg": {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "mlp", "image_size": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


TINY_MOBILE_NAME = "taco-test-mobileclip"
TINY_MOBILE_CONFIG = {
    "embed_dim": 96,
    "vision_cfg": {"timm_model_name": "taco_test_fastvit", "timm_pool": "avg", "timm_proj": None, "image_size": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2, "no_causal_mask": True},
    "custom_text": True,
}


def save_paper_set(folder: Path) -> dict[str, object]:
    """A weights folder with a tiny stand-in of every one of the paper's models; returns the settings that choose them."""
    from taco.backbones.checkpoint import mark_untrained

    paper = folder / "paper"
    (paper / "gpt2").mkdir(parents=True)
    torch.save(tiny_clip()[0].state_dict(), paper / "tiny_clip.bin")
    torch.save({"model": msclap(**TINY_TEXT)}, paper / "CLAP_weights_2023.pth")
    save_fcclip(paper / "fcclip_cocopan.pth", **TINY_FCCLIP)
    mark_untrained(paper / "tiny_clip.bin")
    mark_untrained(paper / "CLAP_weights_2023.pth")
    # Single bytes in GPT-2's order, so that "!" has its id 0; no merges.
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(code) for code in visible] + [chr(256 + i) for i in range(256 - len(visible))]
    (paper / "gpt2" / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate([*letters, "<|endoftext|>"])}))
    (paper / "gpt2" / "merges.txt").write_text("#version: 0.2\n")
    return {
        "models.name": "paper",
        "models.model_dir": str(folder),
        "models.image": f"{TINY_NAME}={paper / 'tiny_clip.bin'}",
        "models.image_size": TINY_SIDE,
        "models.device": "cpu",
        "models.word_bank": ["dog", "siren", "guitar", "rain"],
    }


def save_open_set(folder: Path, mobile: bool = False) -> dict[str, object]:
    """The same of the open set; ``mobile``: with MobileCLIP2's image tower instead of ConvNeXt's."""
    from taco.backbones.checkpoint import mark_untrained

    settings = save_paper_set(folder)
    if mobile:
        torch.save(tiny_mobileclip()[0].state_dict(), folder / "tiny_mobileclip.bin")
        mark_untrained(folder / "tiny_mobileclip.bin")
        settings["models.image"] = f"{TINY_MOBILE_NAME}={folder / 'tiny_mobileclip.bin'}"
    return {**settings, "models.name": "open", "models.image_size": 128}
