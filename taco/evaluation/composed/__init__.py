"""Composed scenes (the data set ``stamps``): cut-outs and recordings on backgrounds, with exact masks."""
