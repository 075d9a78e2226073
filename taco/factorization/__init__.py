"""Soft non-negative co-factorization of image and audio tokens (paper section 3.3)."""

from taco.factorization.api import factorize

__all__ = ["factorize"]
