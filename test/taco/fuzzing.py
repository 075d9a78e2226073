"""What the fuzzing tests share. TACO_FUZZ=50 runs fifty times as many examples as `make test` does."""

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from taco.errors import TacoError

TIMES = float(os.environ.get("TACO_FUZZ", "1"))
LONGEST = 40_000  # characters of an error: a list of missing files may be long


def fuzzed(examples):
    """Settings of a test with so many examples, more with TACO_FUZZ; no time limit for one, the machine may be busy."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=max(1, round(examples * TIMES)), deadline=None, suppress_health_check=checks)


def told_or_done(action, kinds=TacoError):
    """The result of ``action``, or None where it raised one of our errors, in one line; any other error is a failure."""
    try:
        return action()
    except kinds as error:
        text = str(error)
        if "\n" in text or not text or len(text) > LONGEST:
            pytest.fail(f"an error of one line was wanted, got {text[:500]!r}")
        return None


# How a file is damaged: cut off, bytes changed, bytes put in, another file's head.
DAMAGE = st.one_of(
    st.tuples(st.just("cut"), st.floats(0, 1)),
    st.tuples(st.just("change"), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6)),
    st.tuples(st.just("put in"), st.floats(0, 1), st.binary(min_size=1, max_size=12)),
    st.tuples(st.just("replace"), st.binary(max_size=40)),
)


def damaged(data, damage):
    """The bytes with a damage; places are shares of the length, and half of them lie in the first and last kilobyte."""
    kind, *how = damage
    if kind == "replace":
        return how[0]
    if kind == "cut":
        return data[: _place(data, how[0])]
    if kind == "put in":
        at = _place(data, how[0])
        return data[:at] + how[1] + data[at:]
    out = bytearray(data)
    for share, value in how[0]:
        if out:
            out[min(_place(data, share), len(out) - 1)] = value
    return bytes(out)


def _place(data, share):
    edge = min(1024, len(data) // 2)
    if share < 0.25:
        return int(share * 4 * edge)
    if share > 0.75:
        return len(data) - int((1 - share) * 4 * edge)
    return int((share - 0.25) * 2 * len(data))
