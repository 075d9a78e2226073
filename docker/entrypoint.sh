#!/bin/bash
# The robot's environment for a command. exec: signals go to the command itself.
set -e
source "/opt/ros/$ROS_DISTRO/setup.bash"
source /ros2_ws/venv/bin/activate
source /ros2_ws/install/setup.bash
exec "$@"
