"""How many tokens the models make, before the first frame comes."""

import pytest

from taco.backbones import stand_in
from taco.backbones.base import token_counts
from taco.config import FactorizationConfig, ModelsConfig
from taco.errors import ValueRangeError
from taco.factorization import check_factor_count


def test_too_many_factors_are_found_without_a_frame():
    counts = token_counts(stand_in.load(ModelsConfig(image="standin")))
    assert counts == (192, 8)
    check_factor_count(FactorizationConfig(n_factors=8), *counts)
    with pytest.raises(ValueRangeError, match=r"n_factors: wanted 1 to 8 \(192 visual, 8 audio tokens\), got 9"):
        check_factor_count(FactorizationConfig(n_factors=9), *counts)
