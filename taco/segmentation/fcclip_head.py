"""FC-CLIP's mask decoder on ``transformers``' Mask2Former, and its mask classification."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taco.backbones.checkpoint import FETCH, SkipInitialisation, load_strictly, report_unused, under_prefix
from taco.backbones.vendors import import_transformers
from taco.errors import WeightsError

WHAT = "FC-CLIP"
HEADS = 8  # of attention, as in FC-CLIP's configuration; the checkpoint does not say
_PIXEL, _PREDICTOR = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."
# Not needed to run: training's class weights, and the CLIP trunk, which comes from its own file.
_UNUSED = ("criterion.", "backbone.", "pixel_mean", "pixel_std")

_PIXEL_NAMES = (
    (r"^input_proj\.", "input_projections."),
    (r"^transformer\.level_embed$", "level_embed"),
    (r"^transformer\.encoder\.layers\.(\d+)\.norm1\.", r"encoder.layers.\1.self_attn_layer_norm."),
    (r"^transformer\.encoder\.layers\.(\d+)\.norm2\.", r"encoder.layers.\1.final_layer_norm."),
    (r"^transformer\.encoder\.layers\.(\d+)\.linear([12])\.", r"encoder.layers.\1.fc\2."),
    (r"^transformer\.encoder\.", "encoder."),
    (r"^mask_features\.", "mask_projection."),
    (r"^(adapter_1|layer_1)\.norm\.", r"\1.1."),
    (r"^(adapter_1|layer_1)\.weight$", r"\1.0.weight"),
)
_QUERY_NAMES = (
    (r"^query_feat\.", "queries_features."),
    (r"^query_embed\.", "queries_embedder."),
    (r"^decoder_norm\.", "decoder.layernorm."),
    (r"^mask_embed\.layers\.(\d+)\.", r"decoder.mask_predictor.mask_embedder.\1.0."),
    (r"^transformer_cross_attention_layers\.(\d+)\.multihead_attn\.", r"decoder.layers.\1.cross_attn."),
    (r"^transformer_cross_attention_layers\.(\d+)\.norm\.", r"decoder.layers.\1.cross_attn_layer_norm."),
    (r"^transformer_self_attention_layers\.(\d+)\.self_attn\.out_proj\.", r"decoder.layers.\1.self_attn.out_proj."),
    (r"^transformer_self_attention_layers\.(\d+)\.norm\.", r"decoder.layers.\1.self_attn_layer_norm."),
    (r"^transformer_ffn_layers\.(\d+)\.linear([12])\.", r"decoder.layers.\1.fc\2."),
    (r"^transformer_ffn_layers\.(\d+)\.norm\.", r"decoder.layers.\1.final_layer_norm."),
)
_PACKED = re.compile(r"^transformer_self_attention_layers\.(\d+)\.self_attn\.in_proj_(weight|bias)$")
_HEAD = re.compile(r"^(logit_scale$|_mask_pooling_proj\.|class_embed\.)")


@dataclass(frozen=True, slots=True)
class Proposals:
    """What the decoder finds in an image, independent of any prompt.

    masks: (Q, h, w) logits at a quarter of the padded size.
    embeddings: (Q, D) of the trained head, of length 1.
    clip_embeddings: (Q, D) of the frozen CLIP under each mask, of length 1.
    """

    masks: Tensor
    embeddings: Tensor
    clip_embeddings: Tensor


class _PlainMLP(nn.Module):
    def __init__(self, sizes: tuple[int, ...]):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        out: Tensor = self.layers[-1](x)
        return out


class ClassHead(nn.Module):
    """From a query and what its mask covers to a vector in CLIP space (FC-CLIP's in-vocabulary classifier)."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self._mask_pooling_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.class_embed = _PlainMLP((width, width, width, out))

    def forward(self, queries: Tensor, pooled: Tensor) -> Tensor:
        """(B, Q, width) twice -> (B, Q, out) of length 1."""
        return F.normalize(self.class_embed(queries + self._mask_pooling_proj(pooled)), dim=-1)


class MaskDecoder(nn.Module):
    """Pixel decoder, query decoder and class head with FC-CLIP's weights. channels: widths of res2 to res5."""

    void: Tensor

    def __init__(self, pixel: nn.Module, queries: nn.Module, head: ClassHead, void: Tensor, channels: list[int]):
        super().__init__()
        self.pixel, self.queries, self.head = pixel, queries, head
        self.register_buffer("void", F.normalize(void.float(), dim=-1))
        self.channels = channels

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], path: str | Path) -> MaskDecoder:
        """From the tensors of ``fcclip_cocopan.pth``; every size is read from them. WeightsError names what differs."""
        needed = (
            _PREDICTOR + "query_feat.weight",
            _PIXEL + "adapter_1.weight",
            _PIXEL + "input_proj.0.0.weight",
            "void_embedding.weight",
        )
        missing = [key for key in needed if key not in state]
        if missing:
            raise WeightsError(
                f"{WHAT}: wanted {missing[0]} in {path}, got {len(state)} others ({', '.join(list(state)[:3])} ...); {FETCH}"
            )
        with SkipInitialisation():
            pixel, queries, head, channels = _modules(state)
        load_strictly(pixel, _rename_keys(state, _PIXEL, _PIXEL_NAMES), f"{WHAT} pixel decoder", path)
        predictor = {key: value for key, value in under_prefix(state, _PREDICTOR).items() if not _HEAD.match(key)}
        load_strictly(queries, _unpack_attention(predictor), f"{WHAT} query decoder", path)
        load_strictly(
            head, {k: v for k, v in under_prefix(state, _PREDICTOR).items() if _HEAD.match(k)}, f"{WHAT} class head", path
        )
        known = (_PIXEL, _PREDICTOR, "void_embedding.weight", *_UNUSED)
        report_unused((key for key in state if not key.startswith(known)), WHAT)
        return cls(pixel, queries, head, state["void_embedding.weight"], channels)

    def drop_layers(self) -> None:
        """Free the weights that only ``forward`` needs, where another engine computes it."""
        del self.pixel, self.queries, self.head

    def forward(self, pyramid: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps res2 to res5, each (B, C, h, w) -> mask logits (B, Q, h/4, w/4) and embeddings (B, Q, D) of length 1."""
        pixels = self.pixel(pyramid, return_dict=True)
        found = self.queries(list(pixels.multi_scale_features), pixels.mask_features)
        masks = found.masks_queries_logits[-1]
        states = found.intermediate_hidden_states[-1].transpose(0, 1)
        return masks, self.head(states, pool_under_masks(pixels.mask_features, masks))


class ProposalNetwork(nn.Module):
    """Maps res2 to res5 -> the fields of ``Proposals`` for a batch: the decoder, and CLIP's head under its masks.

    project: from locations of res5 to the space of the words.
    """

    def __init__(self, decoder: MaskDecoder, project: nn.Module):
        super().__init__()
        self.decoder, self.project = decoder, project

    def forward(self, *pyramid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        masks, embeddings = self.decoder(list(pyramid))
        return masks, embeddings, F.normalize(self.project(pool_under_masks(pyramid[-1], masks)), dim=-1)


class PromptNetwork(nn.Module):
    """Fields of ``Proposals`` and any number of prompts (K, D) -> shares (Q, K) and semantic maps (K, H, W).

    void, scales, alpha, beta: as ``classify`` wants them. padded, size: as ``semantic_maps``.
    """

    void: Tensor

    def __init__(
        self,
        void: Tensor,
        scales: tuple[float, float],
        alpha: float,
        beta: float,
        padded: tuple[int, int],
        size: tuple[int, int],
    ):
        super().__init__()
        self.register_buffer("void", void)
        self.scales, self.alpha, self.beta, self.padded, self.size = scales, alpha, beta, padded, size

    def forward(self, masks: Tensor, embeddings: Tensor, clip_embeddings: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        proposals = Proposals(masks, embeddings, clip_embeddings)
        shares = classify(proposals, F.normalize(prompts, dim=-1), self.void, self.scales, self.alpha, self.beta)
        return shares, semantic_maps(shares, masks, self.padded, self.size)


def pool_under_masks(features: Tensor, masks: Tensor) -> Tensor:
    """Mean of (B, C, h, w) features where (B, Q, h', w') mask logits are positive -> (B, Q, C); 0 under an empty mask."""
    if masks.shape[-2:] != features.shape[-2:]:
        masks = F.interpolate(masks, size=features.shape[-2:], mode="bilinear", align_corners=False)
    inside = (masks > 0).to(features.dtype)
    inside = inside / (inside.sum((-2, -1), keepdim=True) + 1e-8)
    return torch.einsum("bchw,bqhw->bqc", features, inside)


def classify(
    proposals: Proposals,
    prompts: Tensor,
    void: Tensor,
    scales: tuple[float, float],
    alpha: float,
    beta: float,
    seen: Tensor | None = None,
) -> Tensor:
    """(Q, K) shares of each prompt in each query, the rest to 1 being void.

    prompts: (K, D), void: (1, D), both of length 1 (a zero row stays zero). scales: logit scales of the
    trained head and of CLIP. Geometric ensemble of both classifiers: weight alpha of CLIP for prompts that
    are ``seen`` (K,) in training, beta for the others (None: all).
    """
    trained, clip = scales
    rows = torch.cat([prompts, void])
    inside = trained * proposals.embeddings @ rows.T
    log_in = inside[:, :-1].log_softmax(-1)
    log_out = (clip * proposals.clip_embeddings @ prompts.T).log_softmax(-1)
    weight = prompts.new_full(prompts.shape[:1], beta)  # by the shape, so that an export keeps the number of prompts open
    if seen is not None:
        weight = torch.where(seen.to(rows.device).bool(), alpha, weight)
    void_share = inside.softmax(-1)[:, -1:]
    shares = ((1 - weight) * log_in + weight * log_out).softmax(-1) * (1 - void_share)
    # As upstream, which takes the logarithm of (p + 1e-8) and a softmax again.
    shares = torch.cat([shares, void_share], -1) + 1e-8
    return (shares / shares.sum(-1, keepdim=True))[:, :-1]


def semantic_maps(shares: Tensor, masks: Tensor, padded: tuple[int, int], size: tuple[int, int], chunk: int = 16) -> Tensor:
    """(K, H, W): sum over queries of their shares (Q, K) times their masks' probability, cropped to ``size``.

    Not scaled: up to the number of queries. Masks are enlarged a few at a time to spare memory.
    """
    maps = shares.new_zeros(shares.shape[1], *size)
    for start in range(0, len(masks), chunk):
        maps += torch.einsum(
            "qk,qhw->khw", shares[start : start + chunk], mask_probabilities(masks[start : start + chunk], padded, size)
        )
    return maps


def mask_probabilities(masks: Tensor, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(q, h, w) mask logits -> (q, H, W) probabilities at the input size: enlarged to the padded size, then cropped."""
    large = F.interpolate(masks[None], size=padded, mode="bilinear", align_corners=False)[0]
    return large[:, : size[0], : size[1]].sigmoid()


def _rename_keys(state: Mapping[str, Tensor], prefix: str, names: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    out = {}
    for key, value in under_prefix(state, prefix).items():
        for pattern, replacement in names:
            key, hits = re.subn(pattern, replacement, key)
            if hits:
                break
        out[key] = value
    return out


def _unpack_attention(predictor: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for key, value in predictor.items():
        packed = _PACKED.match(key)
        if packed:
            for part, third in zip("qkv", value.chunk(3)):
                out[f"decoder.layers.{packed[1]}.self_attn.{part}_proj.{packed[2]}"] = third
        else:
            out[key] = value
    return _rename_keys(out, "", _QUERY_NAMES)


def _modules(state: Mapping[str, Tensor]) -> tuple[nn.Module, nn.Module, ClassHead, list[int]]:
    """Empty modules of the checkpoint's sizes."""
    import_transformers()
    from transformers import Mask2FormerConfig
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder, Mask2FormerTransformerModule

    def count(prefix: str) -> int:
        return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})

    def rows(key: str, default: int) -> int:
        return state[key].shape[0] if key in state else default

    n_queries, width = state[_PREDICTOR + "query_feat.weight"].shape
    n_decoder = count(_PREDICTOR + "transformer_cross_attention_layers.")
    config = Mask2FormerConfig(
        feature_size=width,
        mask_feature_size=rows(_PIXEL + "mask_features.weight", width),
        hidden_dim=width,
        encoder_feedforward_dim=rows(_PIXEL + "transformer.encoder.layers.0.linear1.weight", 1024),
        encoder_layers=count(_PIXEL + "transformer.encoder.layers."),
        decoder_layers=n_decoder + 1,
        num_attention_heads=HEADS,
        dim_feedforward=rows(_PREDICTOR + "transformer_ffn_layers.0.linear1.weight", 2048),
        dropout=0.0,
        pre_norm=False,
        enforce_input_projection=False,
        common_stride=4,
        feature_strides=[4, 8, 16, 32],
        num_queries=n_queries,
    )
    coarse = [
        state[f"{_PIXEL}input_proj.{i}.0.weight"].shape[1] for i in (2, 1, 0) if f"{_PIXEL}input_proj.{i}.0.weight" in state
    ]
    channels = [state[_PIXEL + "adapter_1.weight"].shape[1], *coarse]
    embed = rows(_PREDICTOR + "class_embed.layers.2.weight", state["void_embedding.weight"].shape[1])
    pixel, queries = Mask2FormerPixelDecoder(config, channels), Mask2FormerTransformerModule(width, config)
    return pixel, queries, ClassHead(width, embed), channels
