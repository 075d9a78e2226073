"""BirdNET 2.4 as a sound model: an optional extra, run by LiteRT.

Its weights are licensed CC BY-NC-SA 4.0, for non-commercial use only. They are fetched and used only if the settings ask for
them, and the licence is printed when they are loaded. The constants are those of the published model.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from taco.errors import MissingPackageError, WeightsError

SAMPLE_RATE = 48000  # Hz
SAMPLES = 144000  # 3 s
FEATURES = 1024
LICENCE = (
    "BirdNET 2.4 weights: (C) the BirdNET developers, licensed CC BY-NC-SA 4.0, for non-commercial use only. "
    "They are used because the settings ask for birdnet."
)


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """What the process's libraries write to standard error is lost for a moment."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class BirdNET:
    """48 kHz sound of 3 s -> 1024 features >= 0, whose products with ``weights`` plus ``bias`` are the logits of ``names``."""

    def __init__(self, model: Path, labels: Path, threads: int = 1):
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise MissingPackageError(
                "models.audio: birdnet wanted the package ai-edge-litert, got none; run `pip install 'taco-sounding[birdnet]'`, "
                "then `taco weights fetch birdnet`"
            ) from None
        try:
            self.names = [
                line.partition("_")[2].strip() for line in labels.read_text(encoding="utf-8").splitlines() if line.strip()
            ]
            # The features are an inner tensor, so inner tensors must be kept after the run.
            with warnings.catch_warnings():  # LiteRT warns that this takes memory: 60 MB
                warnings.simplefilter("ignore")
                self._run = Interpreter(str(model), num_threads=threads, experimental_preserve_all_tensors=True)
            with _without_stderr():  # LiteRT's C++ part tells there which delegate it made, and has no switch for that
                self._run.allocate_tensors()
            inner = {item["name"]: item["index"] for item in self._run.get_tensor_details()}
            self._features = inner["model/GLOBAL_AVG_POOL/Mean"]
            self.weights = self._run.get_tensor(inner["model/CLASS_DENSE_LAYER/MatMul"]).copy()
            self.bias = self._run.get_tensor(inner["model/CLASS_DENSE_LAYER/BiasAdd/ReadVariableOp/resource"]).copy()
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise WeightsError(f"{model}: wanted the BirdNET 2.4 model, got {error}; run `taco weights fetch birdnet`") from None
        if self.weights.shape != (len(self.names), FEATURES):
            raise WeightsError(f"{model}: wanted {len(self.names)} classes of {FEATURES} features, got {self.weights.shape}")

    def features(self, samples: np.ndarray) -> np.ndarray:
        """(1024,) float32 >= 0 of up to 3 s of 48 kHz sound in [-1, 1]; shorter sound is repeated."""
        patch = np.resize(np.asarray(samples, np.float32), SAMPLES)
        self._run.set_tensor(0, patch[None])
        self._run.invoke()
        features: np.ndarray = self._run.get_tensor(self._features)[0].copy()
        return features
