"""TACO: outline in a camera image what a microphone hears (sound-prompted segmentation without training)."""

__version__ = "0.1.0"
