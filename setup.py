"""Shim for tools that still call setup.py: everything stands in pyproject.toml. The ROS package is built by CMakeLists.txt."""

from setuptools import setup

setup()
