#!/usr/bin/env bash
# Compare taco's adapters with the original packages, in .venv-parity (1.5 GB, made on the first run).
#   make parity                                                        MSCLAP against the msclap package
#   FCCLIP=~/fc-clip DETECTRON2=~/detectron2 make parity               and FC-CLIP against its own classes
#   FCCLIP=... DETECTRON2=... tools/parity.sh --full                   and at full size (5 GB of memory)
# With FC-CLIP the table goes to docs/parity.md.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-parity
recipe=$(sha256sum "$0" | cut -c1-16)
if [ "$(cat "$venv/.recipe" 2>/dev/null)" != "$recipe" ]; then
  echo "making $venv ..." >&2
  rm -rf "$venv"
  "${PYTHON:-.venv/bin/python}" -m venv "$venv"
  pip() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
  # msclap's own requirements are left aside: of torchaudio it needs nothing here but the import.
  pip "torch==2.13.0" "torchvision==0.28.0" "transformers==4.57.6" "numpy==1.26.4" "librosa==0.10.2.post1" "torchlibrosa==0.1.0" \
      "pandas<3" scikit-learn "timm==1.0.31" ftfy regex safetensors "huggingface_hub<1" soxr pyyaml "opencv-python-headless<4.12" \
      fvcore iopath omegaconf hydra-core yacs pycocotools tabulate matplotlib cloudpickle termcolor
  pip --no-deps "msclap==1.3.4" "open_clip_torch==3.3.0"
  echo "$recipe" > "$venv/.recipe"
fi
args=()
[ -n "${FCCLIP:-}" ] && args+=(--fcclip "$FCCLIP" --table docs/parity.md)
[ -n "${DETECTRON2:-}" ] && args+=(--detectron2 "$DETECTRON2")
HF_HUB_OFFLINE=1 exec "$venv/bin/python" -W ignore tools/parity.py "${args[@]}" "$@"
