"""Benchmarks of ``taco bench``: each prints ratios measured in one run on one machine."""
