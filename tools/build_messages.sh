#!/usr/bin/env bash
# usage: tools/build_messages.sh [VENV]
# Builds the ROS package (messages, nodes, launch files) and installs it into the environment's own prefix, so that its
# Python finds the messages without any variable. Our modules are linked, not copied: edits need no second run.
# Done within a moment when nothing changed. On a robot use `colcon build` instead.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$(cd "${1:-$root/.venv}" && pwd)
build=$root/build/ros-$(basename "$venv")
stamp=$build/installed
cd "$root"

# what the install depends on: the interfaces, the build files and the list of linked files
state=$({ echo "$root $venv"; cat msg/*.msg srv/*.srv CMakeLists.txt package.xml
  cat tools/build_messages.sh
  find scripts launch config -type f -not -name '*.pyc' | sort; } | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$state" ] && [ -d "$venv/share/taco_ros" ]; then
  exit 0
fi

echo "building the ROS messages into $(basename "$venv") (about a minute) ..."
mkdir -p "$build"
exec 9>"$build/lock"
flock 9
export PATH=$venv/bin:$PATH AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv
unset PYTHONPATH ROS_DISTRO

# the wheels remember the headers of the machine they were built on
read -r include numpy < <("$venv/bin/python" -c 'import numpy, sysconfig; print(sysconfig.get_path("include"), numpy.get_include())')
if [ ! -f "$include/Python.h" ]; then
  echo "taco: wanted the Python headers in $include, found none; next: apt-get install python3-dev" >&2
  exit 1
fi
sed -i -E "s#/opt/python/cp3[0-9]+-cp3[0-9]+/include/python3\.[0-9]+#$include#g; s#/opt/python/[^;\"]*/numpy/_core/include#$numpy#g" \
  "$venv"/share/*/cmake/*rosidl_generator_pyExport.cmake

run() {  # quiet unless it fails
  if ! "$@" >>"$build/build.log" 2>&1; then
    tail -n 30 "$build/build.log" >&2
    echo "taco: building the ROS messages failed; the whole log is in build/$(basename "$build")/build.log" >&2
    exit 1
  fi
}
: >"$build/build.log"
run cmake -S "$root" -B "$build" -GNinja -DCMAKE_INSTALL_PREFIX="$venv" -DPython3_EXECUTABLE="$venv/bin/python" \
  -DBUILD_TESTING=OFF -DAMENT_CMAKE_SYMLINK_INSTALL=ON \
  -DTACO_LINK_PYTHON=ON
run cmake --build "$build"
(cd "$build" && run cmake --install .) # it leaves a list of what it linked where it is called
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
rm -f "$site/taco_ros/__init__.py"
printf 'from pkgutil import extend_path\n\n__path__ = [%s, *extend_path(__path__, __name__)]\n' \
  "$("$venv/bin/python" -c 'import sys; print(repr(sys.argv[1]))' "$root/taco_ros")" >"$site/taco_ros/__init__.py"
if [ -L "$site/taco" ] || [ ! -e "$site/taco" ]; then # a taco installed by pip stays
  ln -sfn "$root/taco" "$site/taco"
fi
(cd / && run "$venv/bin/python" -c "from taco_ros.msg import AudioChunk, SoundingObjectArray; from taco_ros.srv import SetWords")
printf '%s' "$state" >"$stamp"
