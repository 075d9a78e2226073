"""Soft non-negative co-factorization of image and audio tokens (paper section 3.3)."""

from taco.factorization.api import check_factor_count, factorize
from taco.factorization.interpret import FactorMeaning, explain_factors, nearest_words, sound_map, visual_map

__all__ = ["FactorMeaning", "check_factor_count", "explain_factors", "factorize", "nearest_words", "sound_map", "visual_map"]
