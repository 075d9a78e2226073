"""Notes from a SoundFont 2 file, without a synthesizer.

Reads presets, instruments and samples; plays a note as its nearest sample at the note's pitch, looped
and faded. Filters, modulators and effects of the format are left out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from taco.errors import MediaError

RATE = 44100  # Hz of what is rendered
# Generator numbers of the format that matter here.
RELEASE, INSTRUMENT, KEYS, VELOCITIES, ATTENUATION = 38, 41, 43, 44, 48
COARSE, FINE, SAMPLE, MODES, SCALE, ROOT = 51, 52, 53, 54, 56, 58
_RECORDS = {"phdr": "20sHHHIII", "pbag": "HH", "pgen": "HH", "inst": "20sH", "ibag": "HH", "igen": "HH", "shdr": "20sIIIIIBbHH"}


class SoundFont:
    """One SoundFont file. ``play`` renders General MIDI programs (bank 0) and the drum kit (bank 128)."""

    def __init__(self, path: Path):
        try:
            chunks = dict(_chunks(Path(path).read_bytes()))
            self._samples = np.frombuffer(chunks["smpl"], "<i2").astype(np.float32) / 32768
            self._records = {name: list(struct.iter_unpack("<" + form, chunks[name])) for name, form in _RECORDS.items()}
        except (OSError, KeyError, struct.error, ValueError) as error:
            raise MediaError(f"{path}: wanted a SoundFont 2 file, got {error}; fetch it again") from None
        heads = self._records["phdr"]
        self._presets = {(head[2], head[1]): (head[3], after[3]) for head, after in zip(heads, heads[1:])}

    def play(
        self, notes: list[tuple[float, float, int, float]], program: int, bank: int = 0, length_s: float = 4.0
    ) -> np.ndarray:
        """(n,) float32 at 44100 Hz, peak 0.9. notes: (start s, length s, MIDI key, loudness in [0, 1])."""
        if (bank, program) not in self._presets:
            raise MediaError(f"SoundFont: wanted program {program} of bank {bank}, got none in this file")
        out = np.zeros(round(length_s * RATE), np.float32)
        for start, length, key, loudness in notes:
            at = round(start * RATE)
            for wave in self._note(bank, program, key, loudness, length):
                part = wave[: max(0, len(out) - at)]
                out[at : at + len(part)] += part
        peak = float(np.abs(out).max())
        return out * (0.9 / peak) if peak else out

    def _note(self, bank: int, program: int, key: int, loudness: float, length: float) -> Iterator[np.ndarray]:
        for first in self._zones("pbag", "pgen", self._presets[bank, program], key, loudness, INSTRUMENT):
            heads = self._records["inst"]
            span = (heads[first[INSTRUMENT]][1], heads[first[INSTRUMENT] + 1][1])
            for zone in self._zones("ibag", "igen", span, key, loudness, SAMPLE):
                for number in (COARSE, FINE):
                    zone[number] = _signed(zone.get(number, 0)) + _signed(first.get(number, 0))
                yield self._wave(zone, key, loudness, length)

    def _zones(self, bag: str, gen: str, span: tuple[int, int], key: int, loudness: float, last: int) -> list[dict[int, int]]:
        """Generators of the zones that the note falls into; the first zone without ``last`` holds for all."""
        common: dict[int, int] = {}
        found = []
        for number in range(*span):
            begin, end = self._records[bag][number][0], self._records[bag][number + 1][0]
            zone = dict(self._records[gen][begin:end])
            if last not in zone:
                common = zone if number == span[0] else common
                continue
            zone = common | zone
            if all(
                low <= value <= high
                for value, (low, high) in (
                    (key, divmod(zone.get(KEYS, 0x7F00), 256)[::-1]),
                    (round(loudness * 127), divmod(zone.get(VELOCITIES, 0x7F00), 256)[::-1]),
                )
            ):
                found.append(zone)
        return found

    def _wave(self, zone: dict[int, int], key: int, loudness: float, length: float) -> np.ndarray:
        _, start, end, loop, loop_end, rate, root, correction, *_ = self._records["shdr"][zone[SAMPLE]]
        root = zone.get(ROOT, root) if zone.get(ROOT, -1) not in (-1, 0xFFFF) else root
        semitones = (key - root) * zone.get(SCALE, 100) / 100 + zone[COARSE] + (zone[FINE] + correction) / 100
        step = rate / RATE * 2 ** (semitones / 12)
        release = 2 ** (_signed(zone.get(RELEASE, 0xD120)) / 1200)
        release = min(max(release, 0.05), 1.0)
        count = round((length + release) * RATE)
        at = np.arange(count) * step
        if zone.get(MODES, 0) in (1, 3) and loop_end > loop:
            span = loop_end - loop
            at = np.where(at >= loop_end - start, (at - (loop - start)) % span + (loop - start), at)
        at = at[at < end - start - 1]
        whole = at.astype(np.int64)
        part = (at - whole).astype(np.float32)
        data = self._samples[start:end]
        wave = data[whole] * (1 - part) + data[whole + 1] * part
        time = np.arange(len(wave)) / RATE
        fade = np.clip(1 - (time - length) / release, 0, 1) * np.clip(time / 0.003, 0, 1)
        loud = wave * fade * loudness * 10 ** (-zone.get(ATTENUATION, 0) * 0.4 / 200)
        return np.asarray(loud, np.float32)


def _chunks(data: bytes, at: int = 0, end: int | None = None) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the leaves of a RIFF file."""
    end = len(data) if end is None else end
    while at + 8 <= end:
        name, size = data[at : at + 4].decode("latin-1"), int.from_bytes(data[at + 4 : at + 8], "little")
        if name in ("RIFF", "LIST"):
            yield from _chunks(data, at + 12, at + 8 + size)
        else:
            yield name, data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _signed(value: int) -> int:
    return value - 65536 if value >= 32768 else value
