"""Time as integer nanoseconds (``_ns``)."""

NS = 1_000_000_000  # nanoseconds in a second
JUMP_BACK_NS = NS  # ours: stamps that fall back further are a new time line (a loop, another recording), not jitter
