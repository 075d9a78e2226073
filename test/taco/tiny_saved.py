"""Tiny models of ``transformers``' own classes with random weights, saved as users' weights folders are."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from taco.backbones.checkpoint import mark_untrained
from taco.backbones.vendors import import_transformers
from test.taco.synthetic_weights import draw

SIDE = 112  # px of SAM's image
WIDTH = 128  # the tracker takes no less


def tokenizer():
    """Of single letters, so that a word of n letters has n tokens and its two ends."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = [chr(code) for code in range(ord(" "), ord("~") + 1)]
    vocabulary = {letter: number for number, letter in enumerate([*letters, "<start>", "<end>", "<pad>", "<unk>"])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    ends = [(name, vocabulary[name]) for name in ("<start>", "<end>")]
    plain.post_processor = processors.TemplateProcessing("<start> $A <end>", special_tokens=ends)
    named = {"bos_token": "<start>", "eos_token": "<end>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return import_transformers().PreTrainedTokenizerFast(tokenizer_object=plain, **named)


def fill(model: nn.Module) -> None:
    """Values drawn by name: the same on every machine."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(draw(name, *value.shape))


def sam3_parts(lite: bool = False) -> dict[str, object]:
    """The settings of a tiny SAM 3's parts."""
    vit = {
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "window_size": 4,
        "global_attn_indexes": [1],
        "pretrain_image_size": 56,
    }
    vision = {"backbone_config": vit, "fpn_hidden_size": WIDTH, "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]]}
    if lite:
        vision["model_type"] = "sam3_vision_model"
        vit["model_type"] = "sam3_vit_model"
    words = {"vocab_size": 120, "hidden_size": WIDTH, "intermediate_size": 64, "projection_dim": 16, "num_hidden_layers": 2}
    words |= {"num_attention_heads": 2, "max_position_embeddings": 77 if lite else 32}
    if not lite:
        words |= {"bos_token_id": 95, "eos_token_id": 96, "pad_token_id": 97}
    small = {"hidden_size": WIDTH, "num_attention_heads": 2, "intermediate_size": 64}
    return {
        "vision_config": vision,
        "text_config": words,
        "geometry_encoder_config": {**small, "num_layers": 1},
        "detr_encoder_config": {**small, "num_layers": 1},
        "detr_decoder_config": {**small, "num_layers": 2, "num_queries": 12},
        "mask_decoder_config": {"hidden_size": WIDTH, "num_attention_heads": 2},
    }


def sam3_model(lite: bool = False):
    """A SAM 3 of a few million parameters that is sure of every word and every instance."""
    transformers = import_transformers()
    kind = "Sam3LiteText" if lite else "Sam3"
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**sam3_parts(lite))).eval()
    fill(model)
    certain(model)
    return model


def certain(model, presence: float = 6.0, instances: float = 6.0) -> None:
    """Sets a SAM's log-odds: of every word's presence, and of every instance, whatever the image."""
    with torch.no_grad():
        head = model.detr_decoder.presence_head.layer3
        head.weight.zero_()
        head.bias.fill_(presence)
        scoring = model.dot_product_scoring
        for layer in (scoring.text_proj, scoring.query_proj):
            layer.weight.zero_()
        width = scoring.text_proj.out_features
        scoring.text_proj.bias.fill_(abs(instances) ** 0.5 * width**-0.25)
        scoring.query_proj.bias.fill_((1 if instances > 0 else -1) * abs(instances) ** 0.5 * width**-0.25)


def sam3_video_model():
    """The tiny SAM 3 with a tracker, as the hub's file has them."""
    transformers = import_transformers()
    detector = sam3_parts()
    vision = {**detector["vision_config"], "model_type": "sam3_vision_model"}
    tracker = {"vision_config": vision, "image_size": SIDE, "num_maskmem": 3, "max_object_pointers_in_encoder": 4}
    tracker |= {
        "memory_attention_num_layers": 1,
        "memory_attention_feed_forward_hidden_size": 64,
        "memory_encoder_hidden_size": WIDTH,
    }
    tracker |= {"memory_attention_hidden_size": WIDTH, "memory_encoder_output_channels": 64, "memory_fuser_embed_dim": WIDTH}
    tracker |= {"memory_attention_num_attention_heads": 1, "mask_downsampler_embed_dim": WIDTH}
    tracker |= {"memory_fuser_intermediate_dim": 64, "memory_fuser_num_layers": 1, "memory_attention_rope_feat_sizes": [8, 8]}
    small = {"hidden_size": WIDTH, "num_attention_heads": 2}
    tracker |= {"prompt_encoder_config": {"hidden_size": WIDTH, "image_size": SIDE}}
    tracker |= {"mask_decoder_config": {**small, "mlp_dim": 64, "iou_head_hidden_dim": WIDTH}}
    model = transformers.Sam3VideoModel(transformers.Sam3VideoConfig(detector_config=detector, tracker_config=tracker)).eval()
    fill(model)
    certain(model.detector_model)
    with torch.no_grad():
        seen = model.tracker_model.mask_decoder.pred_obj_score_head.proj_out
        seen.weight.zero_()
        seen.bias.fill_(5.0)  # whatever is followed is in view
    return model


def save_sam3(folder: Path, lite: bool = False, model=None) -> Path:
    """A weights folder's part ``sam3`` or ``sam3_lite_text``."""
    transformers = import_transformers()
    folder = folder / ("sam3_lite_text" if lite else "sam3")
    model = model or sam3_model(lite)
    model.config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors")  # save_pretrained doubles the tracker's prefix in 5.18
    pictures = transformers.Sam3ImageProcessor(size={"height": SIDE, "width": SIDE})
    transformers.Sam3Processor(pictures, tokenizer()).save_pretrained(folder)
    return folder


def pe_audio_settings() -> dict[str, object]:
    """The settings of a tiny Perception Encoder for sound: a token every 1920 samples, as the real one."""
    codec = {"downsampling_ratios": [2, 8, 10, 12], "encoder_hidden_size": 4, "codebook_dim": 8, "hidden_size": 16}
    small = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {**small, "vocab_size": 120, "pad_token_id": 97, "bos_token_id": 95, "eos_token_id": 96, "cls_token_id": 95}
    words |= {"sep_token_id": 96}
    return {"text_config": words, "audio_config": {**small, "hidden_size": 48, "head_dim": 24, "dac_config": codec}}


def pe_audio_model(video: bool = False):
    """A ``PeAudioModel`` or ``PeAudioVideoModel`` of some ten thousand parameters, with scale 3 and bias -2."""
    transformers = import_transformers()
    settings = pe_audio_settings()
    if video:
        eye = {
            "architecture": "vit_tiny_patch16_224",
            "model_args": {"depth": 1, "embed_dim": 24, "img_size": 32, "num_heads": 2},
        }
        eye |= {"num_classes": 32, "do_pooling": True, "global_pool": "map"}
        small = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 24}
        parts = {"audio_config": settings["audio_config"], "video_config": {**small, "vision_config": eye}, **small}
        config = transformers.PeAudioVideoConfig(text_config=settings["text_config"], audio_video_config=parts)
        model = transformers.PeAudioVideoModel(config).eval()
    else:
        model = transformers.PeAudioModel(transformers.PeAudioConfig(**settings)).eval()
    fill(model)
    ear = model.audio_model if video else model
    with torch.no_grad():
        ear.text_audio_logit_scale.fill_(3.0)
        ear.text_audio_logit_bias.fill_(-2.0)
    return model


def save_pe_audio(folder: Path, video: bool = False, model=None) -> Path:
    """A weights folder's part ``pe-audio`` or ``pe-audio-video``."""
    folder = folder / ("pe-audio-video" if video else "pe-audio")
    (model or pe_audio_model(video)).save_pretrained(folder)
    mark_untrained(folder / "model.safetensors")
    tokenizer().save_pretrained(folder)
    return folder
