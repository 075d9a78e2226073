"""Start taco_node, and if wished the microphone node and RViz.

`ros2 launch taco_ros taco.launch.py --show-args` lists the arguments.
"""

from pathlib import Path

from taco_ros import launching


def generate_launch_description():
    """What `ros2 launch` calls."""
    config = Path(__file__).parent.parent / "config"
    return launching.description(config, (*launching.ONE_CAMERA, *launching.SHARED), launching.one_camera)
