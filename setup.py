"""The library `taco` without ROS: `pip install .`; the ROS package is built by CMakeLists.txt (colcon build)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "([^"]+)"', (ROOT / "taco/__init__.py").read_text(encoding="utf-8"), re.M).group(1)
README = ROOT / "README.md"

setup(
    name="taco-sounding",
    version=VERSION,
    description="Outlines in camera images what a microphone hears (sound-prompted segmentation without training)",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["taco", "taco.*"]),
    package_data={"taco": ["**/*.json", "**/*.txt", "**/*.yaml", "**/*.npz", "**/*.csv", "**/*.html"]},
    install_requires=[
        "numpy>=1.26",
        "torch>=2.4",
        "scipy>=1.11",
        "soxr>=0.3.7",
        "PyYAML>=6",
        "opencv-python-headless>=4.8",
        "av>=14",
        "pillow>=10.1",
        "tqdm>=4.60",
        "soundfile>=0.12",
        "onnx>=1.18",
        "onnxruntime>=1.20",
        "tflite>=2.10",
    ],
    extras_require={
        "paper": ["torchvision>=0.19", "open_clip_torch>=2.30", "transformers>=4.57"],
        "microphone": ["sounddevice>=0.4.6"],
        "birdnet": ["ai-edge-litert>=2.0"],  # its weights are for non-commercial use only
        "bags": ["rosbags>=0.10"],
        "openvino": ["openvino>=2024.6"],  # runs the same networks, faster on Intel's processors
        "viewer": ["rerun-sdk>=0.22"],
        "ray": ["ray>=2.30"],
    },
    entry_points={"console_scripts": ["taco = taco.cli:main"]},
)
