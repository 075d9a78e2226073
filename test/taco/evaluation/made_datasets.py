"""Small data sets in exactly the public layouts, made in a temporary folder."""

import csv
import json

import numpy as np
import soundfile
from PIL import Image

RATE = 16000
SECOND_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def save(path, pixels, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, **how).save(path)


def sound(path, seconds):
    """A sound whose level tells which second it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.concatenate([np.full(RATE, SECOND_LEVELS[i % 10], np.float32) for i in range(seconds)])
    soundfile.write(path, np.stack([samples, samples], 1), RATE)


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def picture(seed, size=(224, 224)):
    return np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)


def mask(i, size=(224, 224)):
    """The i-th mask: a bar of (i + 1) * 20 columns."""
    out = np.zeros(size, np.uint8)
    out[:, : (i + 1) * size[1] * 20 // 224] = 255
    return out


def s4(root):
    base = root / "Single-source"
    rows = [("vid_a", "dog_barking", "test"), ("vid_b", "playing_violin", "test"), ("vid_c", "dog_barking", "train")]
    table(base / "s4_meta_data.csv", [dict(zip(("name", "category", "split"), row)) for row in rows])
    for seed, (name, category, split) in enumerate(rows):
        place = base / "s4_data"
        for i in range(1, 6):
            save(place / "visual_frames" / split / category / name / f"{name}_{i}.png", picture(seed))
            if split != "train" or i == 1:
                save(place / "gt_masks" / split / category / name / f"{name}_{i}.png", mask(i - 1))
        sound(place / "audio_wav" / split / category / f"{name}.wav", 5)
    return root


def ms3(root):
    base = root / "Multi-sources"
    table(base / "ms3_meta_data.csv", [{"name": "x1", "split": "test"}, {"name": "x2", "split": "val"}])
    for name, split in (("x1", "test"), ("x2", "val")):
        place = base / "ms3_data"
        for i in range(1, 6):
            save(place / "visual_frames" / name / f"{name}.mp4_{i}.png", picture(i))
            save(place / "gt_masks" / split / name / f"{name}_{i}.png", mask(i - 1))
        sound(place / "audio_wav" / split / f"{name}.wav", 5)
    return root


def avss(root):
    rows = [("u1", "v1s", "test"), ("u2", "v2", "test"), ("u3", "v1m", "train")]
    table(root / "metadata.csv", [dict(zip(("uid", "label", "split"), row)) for row in rows])
    (root / "label2idx.json").write_text(json.dumps({"violin": 2, "background": 0, "dog": 1}))
    for uid, label, _ in rows:
        place, n = root / label / uid, 10 if label == "v2" else 5
        for i in range(n):
            (place / "frames").mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(i, (120, 160))).save(place / "frames" / f"{i}.jpg")
            classes = (mask(i % 5, (120, 160)) > 0).astype(np.uint8) * (1 + i % 2)
            save(place / "labels_semantic" / f"{i}.png", classes)
            colours = np.zeros((120, 160, 3), np.uint8)
            colours[classes == 1], colours[classes == 2] = (128, 0, 0), (0, 128, 0)
            save(place / "labels_rgb" / f"{i}.png", colours)
        sound(place / "audio.wav", n)
    return root


def ade(root):
    columns = ("image_location", "vggsound_file", "ade_class_id", "ade_class")
    rows = [
        ("training/a/one.jpg", "some/where/dog_1.wav", "774", "dog"),
        ("training/a/two.jpg", "cat_2.wav", "300.0", "cat"),
        ("training/a/left.jpg", "", "300", "cat"),
        ("training/a/zero.jpg", "x.wav", "0", "nothing"),
        ("training/a/three.jpg", "dog_3.wav", "774", "dog"),
    ]
    table(root / "prompted_segmentation.csv", [dict(zip(columns, row)) for row in rows])
    for seed, (place, audio, number, _) in enumerate(rows):
        if not audio or number == "0":
            continue
        number = int(float(number))
        save(root / "frames" / place.replace(".jpg", ".png"), picture(seed, (90, 130)))
        (root / "frames" / place.replace(".jpg", ".png")).rename(root / "frames" / place)
        seg = np.zeros((90, 130, 3), np.uint8)
        seg[:, :60] = (number // 256 * 10 + 7, number % 256, 99)  # R also holds a part of the object number
        seg[:, 60:] = (10, 5, 0)
        save(root / "annotations" / place.replace(".jpg", "_seg.png"), seg)
        sound(root / "audio" / audio.rsplit("/")[-1], 10)
    return root
