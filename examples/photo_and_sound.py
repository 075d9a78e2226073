"""Outline what sounds in one photograph.

usage: python examples/photo_and_sound.py PHOTO SOUND OUT.png

PHOTO is any picture or video file (its first image), SOUND any sound or video file: its first second is heard.
"""

import sys

import cv2

from taco import AudioWindow, TacoPipeline, VideoFrame
from taco.audio import to_mono
from taco.io.files import frames, is_image, read_audio, read_image
from taco.view.draw import overlay


def main(photo: str, sound: str, out: str) -> None:
    rgb = read_image(photo) if is_image(photo) else next(frames(photo)).rgb
    audio = read_audio(sound)
    window = AudioWindow(to_mono(audio.samples)[: audio.sample_rate], audio.sample_rate, start_ns=0)

    scene = TacoPipeline().process(VideoFrame(rgb, stamp_ns=0), window)

    print(scene.verdict, *(f"{word} {probability:.2f}" for word, probability in scene.heard))
    for item in scene.objects:
        x, y, width, height = item.box
        print(f"{item.label}  score {item.score:.2f}  box x={x} y={y} width={width} height={height}  {item.mask.sum()} px")
    cv2.imwrite(out, cv2.cvtColor(overlay(rgb, scene), cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main(*sys.argv[1:])
