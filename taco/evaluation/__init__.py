"""Evaluation: data sets, methods, metrics, tables."""
