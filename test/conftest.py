"""Shared by all tests: one thread a test process, nothing read from or written to the user's settings."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
