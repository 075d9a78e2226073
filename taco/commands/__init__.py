"""Subcommands of ``taco``: one file each, with ``HELP``, ``add_arguments(parser)`` and ``run(args) -> int``."""
