#!/usr/bin/env bash
# usage: tools/test_kilted.sh [PYTEST ARGUMENTS]     all ROS tests on ROS 2 Kilted, in an environment of its own (.venv-kilted)
# Told as skipped, with the reason: what wheels do not have (launch, cv_bridge).
# Two distros cannot share an environment. Only the middleware is installed a second time; torch and the like are taken from .venv.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
unset PYTHONPATH LD_LIBRARY_PATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH ROS_DISTRO _ROS_WHEELS_BOOTSTRAP_COMPLETE
venv=$root/.venv-kilted
stamp=$venv/.taco-setup
mkdir -p build

wanted=$(cat requirements/ros-kilted.txt tools/test_kilted.sh | cksum)
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
  [ -x .venv/bin/python ] || { echo "taco: wanted .venv, found none; next: make setup" >&2; exit 1; }
  echo "installing the ROS 2 Kilted middleware into .venv-kilted (about half a minute) ..."
  rm -rf "$venv"
  .venv/bin/python -m venv "$venv"
  if ! "$venv/bin/pip" install -q --disable-pip-version-check -r requirements/ros-kilted.txt >build/kilted.log 2>&1; then
    grep -v '^WARNING' build/kilted.log | tail -n 15 >&2
    echo "taco: installing ROS 2 Kilted failed; the whole log is in build/kilted.log" >&2
    exit 1
  fi
  # A plain path comes after this environment's own packages and its start-up hooks are not run: only what is missing is found there.
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  .venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/zz_shared.pth"
  printf '%s' "$wanted" >"$stamp"
fi
PATH=$venv/bin:$root/.venv/bin:$PATH tools/build_messages.sh "$venv"
"$venv/bin/python" -c 'import rclpy; from importlib.metadata import version; print("ROS 2 Kilted, rclpy", version("ros-rclpy"))'
if [ $# -eq 0 ]; then set -- -rs -v --no-header test/taco_ros; fi # -v, over the project's -q: passed and skipped are counted at the end
exec "$venv/bin/python" -m pytest "$@"
