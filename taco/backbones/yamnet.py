"""YAMNet: the probabilities of 521 everyday sounds (AudioSet), independent of each other.

Front end and network are written in plain torch, with the weights of the published quantised file turned back into floats.
So no runtime is needed on any processor, and a pass takes as long as with one. The constants are those of the published model.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taco.errors import WeightsError

SAMPLE_RATE = 16000  # Hz
FRAME, HOP, FFT_SIZE, MELS = 400, 160, 512, 64  # samples, samples, samples, bands
PATCH = 96  # frames of one answer: 0.975 s
PATCH_SAMPLES = (PATCH - 1) * HOP + FRAME
FEATURES, CLASSES = 1024, 521
# (stride, channels out) of the 13 pairs of depthwise and pointwise convolution (MobileNet v1).
BLOCKS = ((1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), *((1, 512),) * 5, (2, 1024), (1, 1024))


class YAMNet(nn.Module):
    """16 kHz sound -> tokens >= 0 and the logits of the 521 classes.

    names: of the classes, as in AudioSet.
    """

    hann: Tensor
    mel: Tensor
    offset: Tensor

    def __init__(self, names: tuple[str, ...] = ()):
        super().__init__()
        self.names = names
        self.stem = nn.Conv2d(1, 32, 3, 2)
        inputs = [32] + [outputs for _, outputs in BLOCKS]
        self.depthwise = nn.ModuleList(nn.Conv2d(n, n, 3, groups=n) for n in inputs[:-1])
        self.pointwise = nn.ModuleList(nn.Conv2d(n, outputs, 1) for n, (_, outputs) in zip(inputs, BLOCKS))
        self.classes = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("hann", torch.zeros(FRAME))
        self.register_buffer("mel", torch.zeros(MELS, FFT_SIZE // 2 + 1))
        self.register_buffer("offset", torch.zeros(MELS))

    @classmethod
    def from_file(cls, path: Path) -> YAMNet:
        """From ``yamnet.tflite``; WeightsError where it is missing, damaged or of another model."""
        try:
            tensors = _constants(path)
            with zipfile.ZipFile(path) as packed:  # the labels are zipped onto the end of the file
                names = tuple(packed.read("yamnet_label_list.txt").decode().splitlines())
            network = cls(names)
            network.load_state_dict(_state(tensors))
        except (OSError, ValueError, KeyError, IndexError, RuntimeError, struct.error, zipfile.BadZipFile) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise WeightsError(f"{path}: wanted YAMNet's weights, got {reason}; run `taco weights fetch embedded`") from None
        if len(names) != CLASSES:
            raise WeightsError(f"{path}: wanted {CLASSES} names of classes, got {len(names)}; run `taco weights fetch embedded`")
        return network.eval().requires_grad_(False)

    def log_mel(self, samples: Tensor) -> Tensor:
        """(n,) samples in [-1, 1], n >= 400 -> (frames, 64): logarithms of the mel bands of the magnitudes."""
        frames = samples.unfold(0, FRAME, HOP) * self.hann
        return torch.log(torch.fft.rfft(frames, FFT_SIZE).abs() @ self.mel.T + self.offset)

    def tokens(self, log_mel: Tensor) -> Tensor:
        """(B, T, 64), T a multiple of 32 -> (B, 2, T / 32, 1024) in [0, 6]: two bands of frequency, steps of 0.32 s."""
        x = F.relu6(_same(self.stem, log_mel[:, None], 2))
        for (stride, _), depthwise, pointwise in zip(BLOCKS, self.depthwise, self.pointwise):
            x = F.relu6(pointwise(F.relu6(_same(depthwise, x, stride))))
        return x.permute(0, 3, 2, 1)

    def drop_convolutions(self) -> None:
        """Free the weights that only ``tokens`` needs, where another engine computes it."""
        del self.stem, self.depthwise, self.pointwise

    def forward(self, samples: Tensor) -> Tensor:
        """(15600,) samples at 16 kHz -> (521,) logits, those of the published network up to its rounding."""
        logits: Tensor = self.classes(self.tokens(self.log_mel(samples)[None]).mean((0, 1, 2)))
        return logits


def _same(conv: nn.Module, x: Tensor, stride: int) -> Tensor:
    """The convolution over (time, frequency), padded as TensorFlow's SAME: for even sizes at stride 2, behind only."""
    assert isinstance(conv, nn.Conv2d)
    return F.conv2d(F.pad(x, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1)), conv.weight, conv.bias, stride, groups=conv.groups)


def _constants(path: Path) -> dict[int, np.ndarray]:
    """The constant tensors of a tflite file by number, quantised ones turned back into floats."""
    import tflite

    data = Path(path).read_bytes()
    if data[4:8] != b"TFL3":
        raise ValueError("no tflite file")
    model = tflite.Model.GetRootAsModel(data, 0)
    graph = model.Subgraphs(0)
    kinds = {tflite.TensorType.FLOAT32: np.float32, tflite.TensorType.INT32: np.int32, tflite.TensorType.INT8: np.int8}
    out = {}
    for number in range(graph.TensorsLength()):
        tensor = graph.Tensors(number)
        raw = model.Buffers(tensor.Buffer())
        if not raw.DataLength() or tensor.Type() not in kinds:
            continue
        values = np.frombuffer(raw.DataAsNumpy().tobytes(), kinds[tensor.Type()]).reshape(tensor.ShapeAsNumpy()).copy()
        scales = tensor.Quantization()
        if scales is not None and scales.ScaleLength():
            shape = [1] * values.ndim
            shape[scales.QuantizedDimension()] = -1
            scale, zero = scales.ScaleAsNumpy().reshape(shape), scales.ZeroPointAsNumpy().reshape(shape)
            if len(scale.ravel()) == 1:
                scale, zero = scale.ravel()[0], zero.ravel()[0]
            values = ((values.astype(np.float64) - zero) * scale).astype(np.float32)
        out[number] = values
    return out


def _state(tensors: dict[int, np.ndarray]) -> dict[str, Tensor]:
    """The file's constants under this module's names, laid out for torch."""

    def convolution(number: int, depthwise: bool) -> Tensor:
        return torch.from_numpy(tensors[number].transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2)).copy())

    state = {"hann": torch.from_numpy(tensors[11].ravel()), "mel": torch.from_numpy(tensors[22])}
    state["offset"] = torch.from_numpy(tensors[23])
    state["stem.weight"], state["stem.bias"] = convolution(33, False), torch.from_numpy(tensors[34])
    for block in range(len(BLOCKS)):
        at = 36 + 6 * block
        state[f"depthwise.{block}.weight"], state[f"depthwise.{block}.bias"] = (
            convolution(at, True),
            torch.from_numpy(tensors[at + 1]),
        )
        state[f"pointwise.{block}.weight"], state[f"pointwise.{block}.bias"] = (
            convolution(at + 3, False),
            torch.from_numpy(tensors[at + 4]),
        )
    state["classes.weight"], state["classes.bias"] = torch.from_numpy(tensors[116]), torch.from_numpy(tensors[117])
    return state
