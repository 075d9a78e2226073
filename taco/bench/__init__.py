"""Benchmarks of ``taco bench``: ratios measured in one run on one machine."""
