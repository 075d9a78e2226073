#!/usr/bin/env bash
# usage: tools/setup_audio.sh     what the test of the microphone node needs: PortAudio and a sound server (a virtual microphone, no hardware)
set -euo pipefail
packages="libportaudio2 pulseaudio pulseaudio-utils libasound2-plugins"
missing() { for name in $packages; do dpkg -s "$name" >/dev/null 2>&1 || printf '%s ' "$name"; done; }
[ -z "$(missing)" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing the virtual microphone: $(missing)"
  export DEBIAN_FRONTEND=noninteractive
  # shellcheck disable=SC2086
  { apt-get install -y -q $packages || { apt-get update -q && apt-get install -y -q $packages; }; } >build/setup_audio.log 2>&1 ||
    { tail -n 5 build/setup_audio.log >&2; echo "taco: installing the virtual microphone failed; see build/setup_audio.log" >&2; }
else
  echo "taco: the microphone test needs: sudo apt-get install $(missing)" >&2
fi
exit 0
