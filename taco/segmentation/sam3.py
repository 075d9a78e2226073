"""SAM 3's instances of the words that sound, kept where the factors' region lies.

*Ours*: the word says what to look for, the factors say where it sounds. Of two dogs, the one is outlined that the word's map
covers. The image encoder may be any; SAM 3 sees the image itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from taco.config import SegmentationConfig, TacoConfig
from taco.segmentation.activation import ActivationSegmenter
from taco.segmentation.base import Segmentation
from taco.segmentation.instances import mask_overlap, sounding_instances
from taco.segmentation.maps import enlarge, factor_map, word_map
from taco.segmentation.sam3_network import Sam3Network
from taco.segmentation.sam3_tracker import Sam3Tracker, Tracks
from taco.types import Anchors, Concept, Factorization, ImageFeatures, SoundingObject, VideoFrame

INSTANCE = 0.5  # least score of an instance: SAM 3's own for video (Sam3VideoConfig.score_threshold_detection)
SAME = 0.5  # least IoU of an instance with a followed one that it is (Sam3VideoConfig.trk_assoc_iou_thresh)
INSIDE = 0.5  # least probability of a pixel of an instance, as SAM 3's post-processing


@dataclass(frozen=True, slots=True)
class _Memory:
    """For the next frame: the image's features, which a still image shares, the result of ``without``, and what is followed."""

    features: ImageFeatures
    image: Any
    without: Segmentation | None
    tracks: Tracks | None


@dataclass(slots=True)
class _Claim:
    """What is outlined of a concept: probabilities (H, W) float32, masks (H, W) bool and numbers of its instances."""

    concept: Concept
    heats: list[np.ndarray]
    masks: list[np.ndarray]
    numbers: list[int]


class Sam3Segmenter:
    """The words of the concepts are SAM 3's prompts.

    without: finds masks where SAM 3 sees the word, but has no instance where it sounds.
    outcomes: counts of what became of concepts since it was made: "instances" (outlined), "absent" (SAM 3 does not see the
    word: not reported), "no instance" and "elsewhere" (none where it sounds: outlined by ``without``).
    """

    only_torch = True  # whatever runs the other networks

    def __init__(self, network: Sam3Network, without: ActivationSegmenter):
        self.name, self.network, self.without = network.name, network, without
        self.outcomes: Counter[str] = Counter()

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
        """The objects of the concepts that SAM 3 sees; the confidence is at least ``config.threshold`` exactly on their masks.

        A concept whose word SAM 3 sees with a presence below ``config.min_presence`` gives no object. Masks share no pixel. One
        object for each concept, or with ``config.instances`` "apart" for each instance.
        The steps of the result are "instances", "absent", or the step of ``without``. With the tracker an instance has the same
        ``followed`` in successive frames, and one that SAM 3 loses for a while is followed on.
        """
        past = before.memory if before is not None and isinstance(before.memory, _Memory) else None
        image = past.image if past and past.features is features else self.network.encode(frame.rgb)
        given = factorization, anchors, config
        tracks, followed = None, dict[int, np.ndarray]()
        if self.network.tracker:
            old = past.tracks if past and factorization.restart != "cut" else None
            tracks, followed = self.network.tracker.follow(old, image)
        steps: list[str] = []
        claims: list[_Claim] = []
        left: list[Concept] = []
        for concept in concepts:
            step, claim = self._claim_of(frame, features, image, concept, *given, tracks, followed)
            self.outcomes[step] += 1
            steps.append(step)
            if claim:
                claims.append(claim)
            elif step != "absent":
                left.append(concept)
        rest = past.without if past else None
        if left:
            rest = self.without.segment(frame, features, factorization, left, anchors, config, rest)
            found = iter(rest.steps)
            steps = [step if step in ("instances", "absent") else next(found) for step in steps]
        return _together(claims, rest if left else None, frame.size, config, tuple(steps), _Memory(features, image, rest, tracks))

    def _claim_of(
        self,
        frame: VideoFrame,
        features: ImageFeatures,
        image: Any,
        concept: Concept,
        factorization: Factorization,
        anchors: Anchors,
        config: SegmentationConfig,
        tracks: Tracks | None,
        followed: dict[int, np.ndarray],
    ) -> tuple[str, _Claim | None]:
        found = self.network.find(image, concept.label)
        if found.presence < config.min_presence:
            return "absent", None
        sure = (found.scores >= INSTANCE).cpu()
        masks, scores = found.masks.cpu()[sure].numpy(), found.scores.cpu()[sure].numpy()
        own = {n: mask for n, mask in followed.items() if tracks and tracks.words.get(n) == concept.label}
        if own:  # after the instances of this image: of two with nearly the same mask those stay
            masks = np.concatenate([masks, np.stack(list(own.values()))])
            scores = np.concatenate([scores, np.zeros(len(own), np.float32)])
        if not len(masks):
            return "no instance", None
        heat = word_map(factorization, concept.prompt, features.tokens, anchors)
        if not heat.any():  # the factors speak against the word: the place of its factor
            heat = factor_map(factorization, concept.factor, features.tokens)
        size = masks.shape[1:]
        chosen = sounding_instances(enlarge(heat, size), masks > INSIDE, scores, config.min_area * masks[0].size)
        if not chosen:
            return "elsewhere", None
        heats = [cv2.resize(masks[index], frame.size[::-1], interpolation=cv2.INTER_LINEAR) for index in chosen]
        numbers = [0] * len(chosen)
        if tracks and self.network.tracker:
            numbers = _numbers(self.network.tracker, tracks, concept.label, masks[chosen] > INSIDE, own)
        return "instances", _Claim(concept, heats, [one > INSIDE for one in heats], numbers)


def _numbers(tracker: Sam3Tracker, tracks: Tracks, word: str, masks: np.ndarray, followed: dict[int, np.ndarray]) -> list[int]:
    """Of each mask (n, h, w) bool the number of the followed instance that it is, else a new one."""
    numbers = [0] * len(masks)
    pairs = [(mask_overlap(mask, one > INSIDE), n, number) for n, mask in enumerate(masks) for number, one in followed.items()]
    for overlap, n, number in sorted(pairs, reverse=True):
        if overlap >= SAME and not numbers[n] and number not in numbers:
            numbers[n] = number
            tracks.seen[number] = tracks.frame
    new = [n for n, number in enumerate(numbers) if not number]
    if new:
        for n, number in zip(new, tracker.add(tracks, word, [masks[n] for n in new])):
            numbers[n] = number
    return numbers


def _together(
    claims: list[_Claim],
    rest: Segmentation | None,
    size: tuple[int, int],
    config: SegmentationConfig,
    steps: tuple[str, ...],
    memory: _Memory,
) -> Segmentation:
    """The objects of all concepts, best first; a pixel goes to the surest instance there, else to ``rest``."""
    surest = np.zeros(size, np.float32)
    for claim in claims:
        for heat in claim.heats:
            np.maximum(surest, heat, out=surest)
    taken = np.zeros(size, bool)
    objects: list[SoundingObject] = []
    for claim in claims:
        own = []
        for heat, mask in zip(claim.heats, claim.masks):
            own.append(mask & (heat >= surest) & ~taken)
            taken |= own[-1]
        outlines = own if config.instances == "apart" else [np.any(own, 0)]
        labels, score = claim.concept.labels, claim.concept.score
        for mask, number in zip(outlines, claim.numbers):
            item = SoundingObject.from_mask(mask, labels, score)
            objects += [replace(item, followed=number)] if item else []
    confidence = _confidence(surest, taken, config.threshold)
    if rest is not None:
        for item in rest.objects:
            free = item.mask & ~taken
            objects.append(
                SoundingObject.from_mask(free, item.labels, item.score)
                or SoundingObject.from_box(item.box, size, item.labels, item.score)
            )
        confidence = np.maximum(confidence, np.where(taken, 0, rest.confidence))
    objects.sort(key=lambda item: -item.score)
    numbered = [replace(item, id=number) for number, item in enumerate(objects, 1)]
    return Segmentation(confidence, tuple(numbered), steps, memory)


def _confidence(surest: np.ndarray, taken: np.ndarray, threshold: float) -> np.ndarray:
    """(H, W) float32 in [0, 1]: at least ``threshold`` exactly on the masks; SAM 3's probability ranks the pixels."""
    threshold = min(max(threshold, 1e-6), 1.0)
    below = np.nextafter(np.float32(threshold), np.float32(0))
    return np.where(taken, threshold + (1 - threshold) * surest, np.minimum(threshold * surest, below)).astype(np.float32)


def load(config: TacoConfig, without: ActivationSegmenter) -> Sam3Segmenter:
    """The segmenter of ``models.segmenter`` sam3 or sam3_lite_text, from the weights folder."""
    from taco.weights import locate

    models = config.models
    folder = locate(models.segmenter, models).parent
    network = Sam3Network.from_folder(folder, models.segmenter, models.device, models.precision, track=config.segmentation.track)
    return Sam3Segmenter(network, without)
