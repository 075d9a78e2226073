"""Messages of protocol buffers taken apart by their published encoding, without their definitions: for old model files."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of one message: an integer, or the bytes of anything else; ValueError where it is none."""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        kind = key & 7
        if kind == VARINT:
            value, at = varint(message, at)
        else:
            if kind == BYTES:
                length, at = varint(message, at)
            elif kind in (FIXED32, FIXED64):
                length = 4 if kind == FIXED32 else 8
            else:
                raise ValueError(f"wire type {kind}")
            if at + length > len(message):
                raise ValueError("it ends too soon")
            value, at = message[at : at + length], at + length
        yield key >> 3, value


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at ``at``, and where it ends; IndexError where the data end first."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
