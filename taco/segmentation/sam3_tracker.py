"""SAM 3's video tracker on a stream of images: the same number for the same instance from image to image.

It runs on the image features that the detector uses, so an image is still encoded once. A stream's memory is bounded: SAM 3 looks
back at a few images, older ones are dropped here.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taco.backbones.checkpoint import SkipInitialisation, freeze, load_strictly, under_prefix
from taco.backbones.vendors import import_transformers
from taco.errors import ConfigError

TRACKER, NECK = "tracker_model.", "tracker_neck."
KEPT_FRAMES = 30  # images without a sighting after which an instance is given up (Sam3VideoConfig.max_trk_keep_alive)
MOST = 8  # instances followed at once, the newest; ours: each costs a pass of the memory attention


@dataclass(slots=True)
class Tracks:
    """What one stream follows.

    session: of ``transformers``.
    frame: number of the newest image.
    words, seen: of each instance by its number: the word it was found by, and the image in which it was last confirmed.
    whole: False while an image is in work, and after one that failed: the session is of no more use then.
    """

    session: Any
    frame: int = -1
    words: dict[int, str] = field(default_factory=dict)
    seen: dict[int, int] = field(default_factory=dict)
    whole: bool = True


class Sam3Tracker:
    """The frozen tracker. Numbers are never given twice, whatever the stream."""

    def __init__(self, model: Any, neck: Any, device: torch.device, dtype: torch.dtype):
        self.device, self.dtype = device, dtype
        self.model: Any = freeze(model, device, dtype)
        self.neck: Any = freeze(neck, device, dtype)
        self._numbers = itertools.count(1)

    @classmethod
    def from_state(
        cls, config: Any, state: Mapping[str, Tensor], path: Path, device: torch.device, dtype: torch.dtype
    ) -> Sam3Tracker:
        """From a file of ``sam3_video``; ConfigError where the weights have no tracker."""
        if not hasattr(config, "tracker_config"):
            raise ConfigError(
                f"segmentation.track: wanted weights with SAM 3's tracker (model_type sam3_video), got {path} of "
                f"{config.model_type}; use those of facebook/sam3, or switch it off"
            )
        transformers: Any = import_transformers()
        necks = importlib.import_module("transformers.models.sam3.modeling_sam3")
        with SkipInitialisation():
            model = transformers.AutoModel.from_config(config.tracker_config, remove_vision_encoder=True)
            neck = necks.Sam3VisionNeck(config.detector_config.vision_config)
        for module, part in ((model, TRACKER), (neck, NECK)):
            load_strictly(module, under_prefix(state, part), f"SAM 3 {part[:-1]}", path)
        return cls(model, neck, device, dtype)

    @torch.inference_mode()
    def follow(self, tracks: Tracks | None, image: Any) -> tuple[Tracks, dict[int, np.ndarray]]:
        """The tracks in the next image of their stream, and each instance that is in it: number -> (h, w) probabilities.

        tracks: None begins a stream, and so do those of an image that failed.
        """
        if tracks is None or not tracks.whole:
            sessions = importlib.import_module("transformers.models.sam3_video.modeling_sam3_video")
            places = {"inference_device": self.device, "inference_state_device": self.device}
            tracks = Tracks(sessions.Sam3VideoInferenceSession(dtype=self.dtype, **places))
        tracks.whole = False
        tracks.frame += 1
        for number in [n for n, frame in tracks.seen.items() if tracks.frame - frame > KEPT_FRAMES]:
            _forget(tracks, number)
        features, positions = self._features(image)
        tracks.session.cache.cache_vision_features(tracks.frame, {"vision_feats": features, "vision_pos_embeds": positions})
        tracks.session.processed_frames = range(tracks.frame + 1)  # only their number is asked for
        if not tracks.words:
            tracks.whole = True
            return tracks, {}
        found = self.model(inference_session=tracks.session, frame_idx=tracks.frame)
        self._drop_old(tracks)
        tracks.whole = True
        there = found.object_score_logits.reshape(-1) > 0
        masks = found.pred_masks.float().sigmoid()[:, 0].cpu().numpy()
        return tracks, {number: masks[n] for n, number in enumerate(found.object_ids) if there[n]}

    @torch.inference_mode()
    def add(self, tracks: Tracks, word: str, masks: list[np.ndarray]) -> list[int]:
        """Follow more instances (h, w) bool of the newest image; their numbers."""
        tracks.whole = False
        numbers = [next(self._numbers) for _ in masks]
        oldest = sorted(tracks.seen, key=lambda n: tracks.seen[n])[: max(0, len(tracks.seen) + len(masks) - MOST)]
        session = tracks.session
        for number, mask in zip(numbers[:MOST], masks):
            given = torch.from_numpy(mask)[None, None].to(self.device, self.dtype)
            session.add_mask_inputs(session.obj_id_to_idx(number), tracks.frame, given)
            tracks.words[number], tracks.seen[number] = word, tracks.frame
        for number in oldest:  # not before: a session without an instance drops the image's features too
            _forget(tracks, number)
        session.obj_with_new_inputs = numbers[:MOST]
        self.model(inference_session=session, frame_idx=tracks.frame)
        tracks.whole = True
        return numbers

    def _features(self, image: Any) -> tuple[list[Tensor], list[Tensor]]:
        """The tracker's pyramid of the image and its positions, each (h w, 1, C)."""
        hidden = image.last_hidden_state
        rows, columns = self.model.prompt_encoder.image_embedding_size
        pyramid, positions = self.neck(hidden.reshape(len(hidden), rows, columns, -1).permute(0, 3, 1, 2))
        pyramid = list(pyramid[:-1])
        decoder = self.model.mask_decoder
        pyramid[0], pyramid[1] = decoder.conv_s0(pyramid[0]), decoder.conv_s1(pyramid[1])
        return [one.flatten(2).permute(2, 0, 1) for one in pyramid], [one.flatten(2).permute(2, 0, 1) for one in positions[:-1]]

    def _drop_old(self, tracks: Tracks) -> None:
        """Drop what SAM 3 does not look back at any more."""
        config = self.model.config
        oldest = tracks.frame - max(config.num_maskmem, config.max_object_pointers_in_encoder)
        for outputs in tracks.session.output_dict_per_obj.values():
            for frame in [n for n in outputs["non_cond_frame_outputs"] if n < oldest]:
                del outputs["non_cond_frame_outputs"][frame]
        for kept in (tracks.session.frames_tracked_per_obj, tracks.session.mask_inputs_per_obj):
            for frames in kept.values():
                for frame in [n for n in frames if n < oldest]:
                    del frames[frame]


def _forget(tracks: Tracks, number: int) -> None:
    del tracks.words[number], tracks.seen[number]
    tracks.session.remove_object(number)
