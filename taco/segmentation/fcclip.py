"""FC-CLIP: masks for the K factor rows in place of class names (paper section 3.4)."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from taco.backbones.base import Backbones
from taco.backbones.checkpoint import freeze, read_state_dict
from taco.backbones.engine_export import IN_TORCH, Runtime
from taco.backbones.onnx_export import Example
from taco.backbones.openclip import OpenCLIPImageEncoder
from taco.config import SegmentationConfig, TacoConfig
from taco.engines import TorchNetwork
from taco.errors import ConfigError, ShapeError
from taco.segmentation.base import Segmentation
from taco.segmentation.fcclip_head import (
    MaskDecoder,
    PromptNetwork,
    ProposalNetwork,
    Proposals,
    classify,
    mask_probabilities,
    semantic_maps,
)
from taco.segmentation.instances import choose_queries, label_scores, split_region
from taco.segmentation.maps import Rectangle, factor_map, map_rectangle
from taco.types import Anchors, Concept, Factorization, ImageFeatures, SoundingObject, VideoFrame, WordScore

LEVELS = ("res2", "res3", "res4", "res5")
PROPOSALS = tuple(field.name for field in dataclasses.fields(Proposals))  # the decoder's outputs
COVERED = 0.5  # of the region's evidence that its parts must hold, else it stays one object; ours
_Labels = tuple[WordScore, ...]
_Found = tuple[np.ndarray, _Labels, float]  # mask (H, W) bool, labels, score


class FCCLIPSegmenter:
    """FC-CLIP's decoder on the feature maps of ``image_encoder``; the CLIP trunk runs once, in the encoder.

    alpha, beta: weight of the frozen CLIP in the geometric ensemble, for prompts seen in training and for others; factor rows
    count as others.
    runtime: what runs the decoder, for images of the encoder's size.
    """

    name = "fcclip"

    def __init__(
        self,
        decoder: MaskDecoder,
        image_encoder: OpenCLIPImageEncoder,
        alpha: float = 0.4,
        beta: float = 1.0,
        runtime: Runtime = IN_TORCH,
    ):
        self.encoder, self.alpha, self.beta = image_encoder, alpha, beta
        self.decoder = freeze(decoder, image_encoder.device)
        self._proposals: OrderedDict[int, tuple[ImageFeatures, Proposals]] = OrderedDict()
        self._most_proposals = 0
        self.scales = (min(float(decoder.head.logit_scale.exp()), 100.0), min(image_encoder.logit_scale, 100.0))
        side = image_encoder.padded_size
        maps = [
            torch.zeros(1, width, side // stride, side // stride, device=image_encoder.device)
            for width, stride in zip(decoder.channels, (4, 8, 16, 32))
        ]
        self.run = runtime.network(
            ProposalNetwork(self.decoder, image_encoder.project),
            "fcclip",
            PROPOSALS,
            Example(tuple(maps), names=LEVELS, fixed=True),
        )
        if self.run.engine != "torch":
            self.decoder.drop_layers()

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        image_encoder: OpenCLIPImageEncoder,
        alpha: float = 0.4,
        beta: float = 1.0,
        runtime: Runtime = IN_TORCH,
    ) -> FCCLIPSegmenter:
        """Load ``fcclip_cocopan.pth``; WeightsError where it is missing, damaged or of another model."""
        state = read_state_dict(path, "FC-CLIP", wrappers=("model",))
        decoder = MaskDecoder.from_state(state, path)
        wanted = [*decoder.channels, decoder.void.shape[1]]
        visual = image_encoder.model.visual
        got = [*(level["num_chs"] for level in visual.trunk.feature_info), image_encoder.embed_dim]
        if wanted != got:
            raise ConfigError(
                f"models.image: FC-CLIP in {path} wants maps and words {wanted} wide, {image_encoder.name} gives {got}"
            )
        return cls(decoder, image_encoder, alpha, beta, runtime)

    def prompt_network(self) -> TorchNetwork:
        """What follows the decoder as a network, for an export: any number of prompts."""
        side, size = self.encoder.padded_size, self.encoder.image_size
        void, module = self.decoder.void, cast(Any, self.decoder.queries)
        queries: int = module.queries_features.num_embeddings
        network = PromptNetwork(void, self.scales, self.alpha, self.beta, (side, side), (size, size))
        rows = torch.ones(queries, void.shape[1])
        example = (torch.zeros(queries, side // 4, side // 4), rows, rows, rows[:8])
        return TorchNetwork(network, ("shares", "maps"), Example(example, ((), (), (), (0,)), (*PROPOSALS, "prompts")))

    def keep_proposals(self, count: int) -> None:
        """Remember the proposals of the last ``count`` images, for several calls on the same features; none by default."""
        self._most_proposals = count
        while len(self._proposals) > count:
            self._proposals.popitem(last=False)

    def propose(self, features: ImageFeatures) -> Proposals:
        """The proposals of an image, independent of any prompt, for any number of prompts."""
        if id(features) not in self._proposals:
            self._proposals[id(features)] = (
                features,
                self._compute_proposals(features),
            )  # the features are kept, so that no others get their id
        _, found = self._proposals[id(features)]
        self.keep_proposals(self._most_proposals)
        return found

    @torch.inference_mode()
    def _compute_proposals(self, features: ImageFeatures) -> Proposals:
        try:
            pyramid = [features.pyramid[level] for level in LEVELS]
        except KeyError as error:
            raise ShapeError(f"ImageFeatures.pyramid: wanted {', '.join(LEVELS)}, got no {error}") from None
        found = self.run(*pyramid)
        return Proposals(*(found[name][0] for name in PROPOSALS))

    @torch.inference_mode()
    def shares(self, proposals: Proposals, prompts: Tensor) -> Tensor:
        """(Q, K) share of each prompt in each query; prompts (K, D) are brought to length 1, zero rows stay zero."""
        width = self.decoder.void.shape[1]
        if prompts.ndim != 2 or not len(prompts) or prompts.shape[1] != width:
            raise ShapeError(f"prompts: wanted (K, {width}), got {tuple(prompts.shape)}")
        prompts = F.normalize(prompts.to(self.decoder.void), dim=-1)
        return classify(proposals, prompts, self.decoder.void, self.scales, self.alpha, self.beta)

    @torch.inference_mode()
    def maps(self, features: ImageFeatures, prompts: Tensor, proposals: Proposals | None = None) -> Tensor:
        """(K, H, W) semantic maps at the encoder's input size, padding cropped, before any scaling.

        prompts: (K, 768) rows in CLIP space. proposals: of ``propose``, where it has run already.
        """
        proposals = proposals or self.propose(features)
        return semantic_maps(self.shares(proposals, prompts), proposals.masks, features.padded_size, features.size)

    @torch.inference_mode()
    def segment(
        self,
        frame: VideoFrame,
        features: ImageFeatures,
        factorization: Factorization,
        concepts: Sequence[Concept],
        anchors: Anchors,
        config: SegmentationConfig,
        before: Segmentation | None = None,
    ) -> Segmentation:
        """Masks of the sounding factors: read-out and threshold of ``config``; with ``config.split`` one for each object in them.

        A concept whose objects are all too small gives an object with the box of its factor and an empty mask.
        """
        confidence = np.zeros(frame.size, np.float32)
        if not concepts:
            return Segmentation(confidence, ())
        proposals = self.propose(features)
        prompts = factorization.visual_factors
        shares = self.shares(proposals, prompts)
        maps = semantic_maps(shares, proposals.masks, features.padded_size, features.size)
        maps = F.interpolate(maps[None], size=frame.size, mode="bilinear", align_corners=False)[0]
        heats = torch.stack([_scale_to_unit(maps[concept.factor]) for concept in concepts])
        best = heats.argmax(0)
        smallest = max(1.0, config.min_area * confidence.size)
        found: list[_Found | tuple[Rectangle, _Labels, float]] = []
        for index, concept in enumerate(concepts):
            heat = heats[index]
            if config.readout == "argmax":
                region = (maps.argmax(0) == concept.factor) & (maps[concept.factor] > 0)
                heat = heat * region
            else:
                region = (heat >= config.threshold) & (heat > 0)
            confidence = np.maximum(confidence, heat.cpu().numpy())
            region = region & (best == index)
            seen = maps[concept.factor]
            own: list[_Found] = [(region.cpu().numpy(), concept.labels, concept.score)]
            if config.split:
                strength = shares[:, concept.factor]
                own = self._objects_in_region(region, seen, proposals, strength, features, concept, anchors) or own
            own = [item for item in own if item[0].sum() >= smallest]
            if config.instances == "together":
                own = _merge_by_word(own)
            found += own
            if not own:
                place = factor_map(factorization, concept.factor, features.tokens)
                found.append((map_rectangle(place, frame.size), concept.labels, concept.score))
        found = sorted(found, key=lambda item: -item[2])
        objects = [_object(outline, frame.size, labels, score, id) for id, (outline, labels, score) in enumerate(found, 1)]
        return Segmentation(confidence, tuple(objects))

    def _objects_in_region(
        self,
        region: Tensor,
        evidence: Tensor,
        proposals: Proposals,
        strength: Tensor,
        features: ImageFeatures,
        concept: Concept,
        anchors: Anchors,
    ) -> list[_Found]:
        """The objects in the region; empty where it is one object."""
        if not region.any():
            return []
        # Which queries: at the masks' own size. Their outlines: at image size, for the chosen ones only.
        rows, columns = (-(-side // 4) for side in features.size)
        small = F.interpolate(region[None, None].float(), size=(rows, columns), mode="area")[0, 0] >= 0.5
        parts = choose_queries(small, proposals.masks[:, :rows, :columns].sigmoid(), strength)
        if len(parts.queries) < 2:
            return []
        chosen = torch.tensor(parts.queries, device=strength.device)
        outlines = mask_probabilities(proposals.masks[chosen], features.padded_size, features.size)
        outlines = F.interpolate(outlines[None], size=region.shape, mode="bilinear", align_corners=False)[0]
        masks = split_region(region, outlines, strength[chosen])
        if sum(float(evidence[mask].sum()) for mask in masks) < COVERED * float(evidence[region].sum()):
            return []
        words = F.normalize(anchors.visual.to(strength), dim=-1)
        seen = (1 - self.beta) * self.scales[0] * proposals.embeddings[chosen] @ words.T
        seen = seen + self.beta * self.scales[1] * proposals.clip_embeddings[chosen] @ words.T
        sound_logits = torch.zeros(len(words)) if concept.heard is None else concept.heard.clamp_min(1e-12).log()
        named = [label_scores(image_logits, sound_logits.to(strength)) for image_logits in seen]
        top = max(map_overlap for _, map_overlap in named) or 1.0
        objects = []
        for mask, (scores, map_overlap) in zip(masks, named):
            best = scores.topk(min(len(concept.labels), len(scores)))
            labels = tuple((anchors.words[int(word)], float(score)) for score, word in zip(*best))
            objects.append((mask.cpu().numpy(), labels, concept.score * map_overlap / top))
        return objects


def _merge_by_word(objects: list[_Found]) -> list[_Found]:
    """Objects with the same best word as one: the union of their masks, the labels and the score of the surest."""
    kinds: dict[str, _Found] = {}
    for mask, labels, score in sorted(objects, key=lambda item: -item[2]):
        before = kinds.get(labels[0][0])
        kinds[labels[0][0]] = (mask | before[0], *before[1:]) if before else (mask, labels, score)
    return list(kinds.values())


def _object(outline: np.ndarray | Rectangle, size: tuple[int, int], labels: _Labels, score: float, id: int) -> SoundingObject:
    if isinstance(outline, tuple):
        return SoundingObject.from_box(outline, size, labels, score, id)
    found = SoundingObject.from_mask(outline, labels, score, id)
    assert found is not None  # masks smaller than a pixel were dropped
    return found


def _scale_to_unit(values: Tensor) -> Tensor:
    """Scaled to [0, 1]; all 0 where flat."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)


def load(config: TacoConfig, backbones: Backbones) -> FCCLIPSegmenter:
    """The segmenter of the paper's set of models, from the weights folder."""
    from taco.backbones.paper_models import runtime_of
    from taco.weights import locate

    if not isinstance(backbones.image, OpenCLIPImageEncoder):
        raise ConfigError(f"models.segmenter: fcclip needs an OpenCLIP image encoder, got {backbones.image.name}")
    options = config.segmentation
    path = locate("fcclip", config.models)
    return FCCLIPSegmenter.from_checkpoint(path, backbones.image, options.alpha, options.beta, runtime_of(config.models, "auto"))
