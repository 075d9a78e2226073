"""``from taco import ...``: the public names, found in one place and imported only when they are used."""

import subprocess
import sys

import pytest

import taco
from test import ROOT


def test_public_names_are_those_of_their_own_modules():
    from taco import AudioWindow, TacoConfig, TacoPipeline, VideoFrame, config, factorization, factorize, pipeline, types

    assert AudioWindow is types.AudioWindow and VideoFrame is types.VideoFrame
    assert TacoConfig is config.TacoConfig and TacoPipeline is pipeline.TacoPipeline
    assert factorize is factorization.factorize
    assert set(taco.__all__) == {"AudioWindow", "TacoConfig", "TacoPipeline", "VideoFrame", "factorize"} <= set(dir(taco))
    with pytest.raises(AttributeError, match="no attribute 'Pipeline'"):
        _ = taco.Pipeline


def test_importing_taco_loads_neither_torch_nor_numpy():
    code = "import sys, taco; assert taco.__version__; assert not {'torch', 'numpy', 'yaml'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
