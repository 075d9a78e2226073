"""Errors of the library: one line each, that says what, wanted, got and the next step."""


class TacoError(Exception):
    """Root of every error that this library raises on purpose."""


class ShapeError(TacoError, ValueError):
    """An array or tensor has the wrong rank, size or kind."""


class ValueRangeError(TacoError, ValueError):
    """A number lies outside its range, is NaN or infinite, or a choice is unknown."""


class ConfigError(TacoError, ValueError):
    """A setting is unknown, misspelt, of the wrong type or outside its range."""


class AudioGapError(TacoError):
    """The ring cannot give the window asked for: no sound yet, a hole, too old or not there yet.

    ``reason`` is a short fixed word, used as the name of a counter in diagnostics:
    ``no_audio``, ``audio_gap``, ``audio_too_old`` or ``audio_not_yet``.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class MediaError(TacoError):
    """A picture, sound, video or bag cannot be read or written."""


class MessageError(TacoError):
    """A message, live or of a bag, cannot be used. ``reason`` is a short fixed word, the name of a counter in diagnostics."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class WeightsError(TacoError):
    """Model weights are missing, damaged, of another model, or may not be downloaded."""


class DeviceError(TacoError):
    """The wanted device is not there or not usable."""


class MissingPackageError(TacoError, ImportError):
    """An optional package is needed for what was asked; the message names the install command."""


SHOWN = 80  # ours: most characters of an input that an error repeats; a message may hold megabytes of text


def shown(value: object) -> str:
    """A value of an input as errors show it: its repr, cut to ``SHOWN`` characters."""
    text = repr(value[: SHOWN + 1] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
