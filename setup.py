"""Shim for tools that still call setup.py: everything stands in pyproject.toml. The ROS package is built by CMakeLists.txt."""

from pathlib import Path

from setuptools import setup

SCRATCH = Path("build/pip")  # what pip leaves, so that nothing of it lies among the sources

SCRATCH.mkdir(parents=True, exist_ok=True)
setup(options={"build": {"build_base": str(SCRATCH)}, "egg_info": {"egg_base": str(SCRATCH)}})
