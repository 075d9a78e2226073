#!/usr/bin/env bash
# usage: tools/lock.sh     writes requirements/lock.txt from what .venv holds now; run it after changing a version on purpose
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
{
  echo "# Exact versions that were tested together, written by tools/lock.sh. Used as constraints: nothing here is installed unasked."
  .venv/bin/pip list --format=freeze --disable-pip-version-check 2>/dev/null |
    sed 's/+cpu$//' | grep -viE '^(pip|setuptools|taco)' |
    grep -vE '^(action_msgs|ament_cmake_test|builtin_interfaces|diagnostic_msgs|geometry_msgs|lifecycle_msgs|rcl_interfaces|rclpy|rcutils|rmw_dds_common|rosgraph_msgs|rosidl_[a-z_]*|sensor_msgs|service_msgs|std_msgs|std_srvs|type_description_interfaces|unique_identifier_msgs|visualization_msgs|ament[a-z_]*)=='
} >requirements/lock.txt
