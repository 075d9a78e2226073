"""Reading and writing pictures, sounds and videos."""

import io
import resource
import subprocess
import sys
import textwrap
from fractions import Fraction

import av
import numpy as np
import pillow_heif
import pytest
import soundfile
from PIL import Image

from taco.clock import NS
from taco.config import AudioConfig
from taco.errors import MediaError
from taco.io import files
from taco.io.sources import open_sources
from taco.io.video_writer import VideoWriter
from taco.types import AudioChunk, VideoFrame
from test import ROOT


def tone(rate=16000, seconds=3.0, channels=1, hz=440.0):
    wave = 0.3 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)
    return np.repeat(wave.astype(np.float32)[:, None], channels, 1)


def make_clip(path, *, stamps=None, size=(48, 64), rate=16000, channels=1, seconds=3.0):
    """A clip whose grey level is 8 times the frame number, with a tone."""
    stamps = [round(i * 0.1 * NS) for i in range(round(seconds * 10))] if stamps is None else stamps
    with VideoWriter(path, fps=10, sample_rate=rate, channels=channels, origin_ns=0) as writer:
        for i, stamp in enumerate(stamps):
            writer.write(np.full((*size, 3), min(8 * i, 255), np.uint8), stamp)
        if rate:
            writer.write_audio(AudioChunk(tone(rate, seconds, channels), rate, 0))
    return path


def test_what_is_written_is_read_back_with_times_and_sound(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4")
    info = files.probe(clip)
    assert info.size == (48, 64) and info.sample_rate == 16000 and abs(info.duration_s - 3.0) < 0.11
    frames = list(files.frames(clip))
    assert [f.stamp_ns for f in frames] == [pytest.approx(i * NS // 10, abs=1000) for i in range(30)]
    assert all(abs(f.rgb.mean() - 8 * i) < 4 for i, f in enumerate(frames))
    sound = files.read_audio(clip)
    assert sound.sample_rate == 16000 and abs(len(sound.samples) - 48000) < 2100
    body = sound.samples[2000:46000, 0]
    assert abs(np.sqrt((body**2).mean()) - 0.3 / 2**0.5) < 0.01
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_variable_frame_rate_keeps_its_stamps(tmp_path):
    stamps = [0, 40_000_000, 300_000_000, 310_000_000, 2 * NS, 2_900_000_000]
    clip = make_clip(tmp_path / "clip.mp4", stamps=stamps)
    assert [f.stamp_ns for f in files.frames(clip)] == [pytest.approx(s, abs=20_000) for s in stamps]


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".mov"])
def test_other_containers(tmp_path, suffix):
    clip = make_clip(tmp_path / f"clip{suffix}")
    assert len(list(files.frames(clip))) == 30
    assert files.read_audio(clip).sample_rate == 16000


def test_webm_and_transport_stream_start_at_zero(tmp_path):
    for suffix, codec in ((".webm", "libvpx"), (".ts", "mpeg2video")):
        path = tmp_path / f"clip{suffix}"
        with av.open(str(path), "w") as box:
            stream = box.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for _ in range(25):
                box.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")))
            box.mux(stream.encode(None))
        stamps = [f.stamp_ns for f in files.frames(path)]
        assert stamps[0] == 0 and abs(stamps[-1] - 24 * NS // 25) < 20_000_000, suffix


def test_sound_of_a_stream_that_does_not_start_at_zero_lies_where_its_pictures_do(tmp_path):
    """Time in a file counts from its first picture, whatever its own clock says."""
    clip = tmp_path / "clip.mkv"
    with VideoWriter(clip, fps=10, sample_rate=16000, origin_ns=0) as writer:
        for i in range(10):
            writer.write(np.zeros((48, 64, 3), np.uint8), 2 * NS + i * NS // 10)
        writer.write_audio(AudioChunk(tone(16000, 1.0), 16000, 2 * NS + NS // 4))
    with av.open(str(clip)) as box:
        assert box.streams.video[0].start_time * box.streams.video[0].time_base == 2
    sound = files.read_audio(clip)
    begins = np.flatnonzero(np.abs(sound.samples[:, 0]) > 0.05)[0]
    assert abs(sound.stamp_ns + begins * NS / 16000 - NS / 4) < 0.05 * NS


def test_the_cover_of_a_music_file_is_no_video(tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "png")
    body = b"\0image/png\0\3\0" + picture.getvalue()  # encoding, kind, "front cover", no description
    frame = b"APIC" + len(body).to_bytes(4, "big") + b"\0\0" + body
    size = bytes((len(frame) >> shift) & 127 for shift in (21, 14, 7, 0))
    soundfile.write(tmp_path / "plain.mp3", tone(44100, 1.0), 44100)
    song = tmp_path / "song.mp3"
    song.write_bytes(b"ID3\3\0\0" + size + frame + (tmp_path / "plain.mp3").read_bytes())
    with av.open(str(song)) as box:
        assert len(box.streams.video) == 1
    info = files.probe(song)
    assert info.size is None and info.sample_rate == 44100
    with pytest.raises(MediaError, match="wanted video, got only sound"):
        next(files.frames(song))


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_sample_rate_of_a_wav(tmp_path, rate, channels):
    soundfile.write(tmp_path / "a.wav", tone(rate, 1.5, channels), rate, subtype="PCM_16")
    chunk = files.read_audio(tmp_path / "a.wav")
    assert chunk.sample_rate == rate and chunk.samples.shape == (round(1.5 * rate), channels) and chunk.stamp_ns == 0
    assert np.abs(chunk.samples - tone(rate, 1.5, channels)).max() < 1e-4


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.mp3"])
def test_other_sound_files(tmp_path, name):
    soundfile.write(tmp_path / name, tone(16000, 2.0), 16000)
    chunk = files.read_audio(tmp_path / name)
    assert chunk.sample_rate == 16000 and abs(len(chunk.samples) - 32000) < 3000


def test_start_and_end(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4")
    assert [round(f.stamp_ns / NS, 2) for f in files.frames(clip, 1.5, 2.0)] == [1.5, 1.6, 1.7, 1.8, 1.9]
    assert list(files.frames(clip, 10.0)) == []
    assert next(files.chunks(clip, 2.0)).stamp_ns <= 2 * NS


def test_wanted_is_asked_once_a_frame_before_conversion(tmp_path):
    asked = []
    frames = list(files.frames(make_clip(tmp_path / "c.mp4"), wanted=lambda s: asked.append(s) or len(asked) % 10 == 1))
    assert len(asked) == 30 and [round(f.stamp_ns / NS) for f in frames] == [0, 1, 2]


TURNS = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


@pytest.mark.parametrize("clockwise", TURNS)
def test_turned_phone_video_comes_upright(tmp_path, clockwise):
    """A phone stores the sensor's picture and a matrix that says how to turn it: patched into the header here."""
    clip = tmp_path / "phone.mp4"
    stored = np.zeros((48, 96, 3), np.uint8)
    stored[:24, :48] = (250, 20, 20)  # red at the top left
    stored[:24, 48:] = (20, 250, 20)  # green at the top right
    with VideoWriter(clip, fps=10) as writer:
        for _ in range(5):
            writer.write(stored)
    parts = [np.array([a, b, 0, c, d, 0, 0, 0]) * 65536 for a, b, c, d in ((1, 0, 0, 1), TURNS[clockwise])]
    plain, turned = (part.astype(">i4").tobytes() for part in parts)
    data = clip.read_bytes()
    where = data.index(plain, data.index(b"tkhd"))
    clip.write_bytes(data[:where] + turned + data[where + len(turned) :])
    wanted = np.rot90(stored, -clockwise // 90)
    rgb = next(files.frames(clip)).rgb
    assert rgb.shape == wanted.shape and np.abs(rgb.astype(int) - wanted).mean() < 12


def test_pairs_follow_the_sound_with_silence_outside_its_ends():
    samples = np.full((16000, 1), 0.5, np.float32)
    sound = [AudioChunk(samples[i : i + 1000], 16000, NS + i * 62_500) for i in range(0, 16000, 1000)]
    images = [VideoFrame(np.zeros((2, 2, 3), np.uint8), s) for s in (0, NS + NS // 2, 2 * NS, 2 * NS + NS // 2, 9 * NS)]
    shares = [float((w.samples == 0.5).mean()) for _, w in files.pairs(iter(images), iter(sound), AudioConfig())]
    assert shares == [pytest.approx(x, abs=0.001) for x in (0, 0.5, 1, 0.5, 0)]
    centered = [
        float((w.samples == 0.5).mean()) for _, w in files.pairs(iter(images), iter(sound), AudioConfig(alignment="centered"))
    ]
    assert centered == [pytest.approx(x, abs=0.001) for x in (0, 1, 0.5, 0, 0)]


def test_feed_reads_no_further_than_the_window_needs():
    read = []

    def sound():
        for i in range(100):
            read.append(i)
            yield AudioChunk(np.zeros((1600, 1), np.float32), 16000, i * NS // 10)

    files.AudioFeed(sound(), AudioConfig()).window(NS)
    assert read == list(range(10))


def test_audio_offset_moves_the_sound():
    click = np.zeros((16000, 1), np.float32)
    click[8000] = 1.0
    feed = files.AudioFeed(iter([AudioChunk(click, 16000, 0)]), AudioConfig(offset_s=0.25))
    assert int(feed.window(NS).samples.argmax()) == 12000


def test_images(tmp_path):
    rgb = np.zeros((4, 6, 3), np.uint8)
    rgb[0, 0] = (255, 10, 20)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    assert (files.read_image(tmp_path / "a.png") == rgb).all()
    Image.fromarray(rgb[..., 0]).save(tmp_path / "grey.png")
    assert files.read_image(tmp_path / "grey.png").shape == (4, 6, 3)
    Image.fromarray(np.full((4, 6), 65535, np.uint16)).save(tmp_path / "deep.png")
    assert (files.read_image(tmp_path / "deep.png") == 255).all()
    exif = Image.Exif()
    exif[274] = 6  # turned a quarter
    Image.fromarray(rgb).save(tmp_path / "turned.jpg", exif=exif)
    assert files.read_image(tmp_path / "turned.jpg").shape == (6, 4, 3)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [("a.png", b"not a picture", "wanted a picture"), ("a.png", b"", "wanted a picture"), ("a.png", None, "no such file")],
)
def test_bad_images_are_one_clear_line(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=says) as error:
        files.read_image(tmp_path / name)
    assert "\n" not in str(error.value)


def test_bad_clips_are_one_clear_line(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4")
    whole = clip.read_bytes()
    silent = make_clip(tmp_path / "silent.mp4", rate=0)
    soundfile.write(tmp_path / "a.wav", tone(), 16000)
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "head.mp4").write_bytes(whole[:200])
    cases = [
        (files.frames, tmp_path / "none.mp4", "no such file"),
        (files.frames, tmp_path, "got a folder"),
        (files.frames, tmp_path / "text.mp4", "cut off or of another kind"),
        (files.frames, tmp_path / "empty.mp4", "cut off or of another kind"),
        (files.frames, tmp_path / "head.mp4", "cut off or of another kind"),
        (files.frames, tmp_path / "a.wav", "got only sound"),
        (files.chunks, silent, "wanted sound, got none"),
    ]
    for read, path, says in cases:
        with pytest.raises(MediaError, match=says) as error:
            list(read(path))
        assert "\n" not in str(error.value) and path.name in str(error.value)


def test_cut_off_mp4_says_where_and_what_to_do(tmp_path):
    clip = tmp_path / "clip.mp4"
    noise = np.random.default_rng(0)
    with VideoWriter(clip, fps=10) as writer:
        for _ in range(60):
            writer.write(noise.integers(0, 255, (48, 64, 3), np.uint8))
    whole = clip.read_bytes()
    clip.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match=r"cut off at \d\.\d s of 6\.0 s; --end"):
        list(files.frames(clip))
    assert len(list(files.frames(clip, end_s=2.0))) == 20


def test_a_failed_write_leaves_nothing_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), VideoWriter(path) as writer:
        writer.write(np.zeros((8, 8, 3), np.uint8))
        raise RuntimeError("stop")
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(MediaError, match="got none"), VideoWriter(path):
        pass
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    """A limit on the size of files stands for the full disk: writing fails in the same place."""
    code = """
        import sys, numpy as np
        from taco.io.video_writer import VideoWriter
        from taco.errors import MediaError
        noise = np.random.default_rng(0)
        try:
            with VideoWriter(sys.argv[1]) as writer:
                for _ in range(40):
                    writer.write(noise.integers(0, 255, (240, 320, 3), np.uint8))
        except MediaError as error:
            print(error)
    """

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "a.mp4")],
        capture_output=True, text=True, preexec_fn=limit, cwd=ROOT, check=True,
    )  # fmt: skip
    assert "cannot write" in run.stdout and run.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_atomic_keeps_the_old_file_until_the_new_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="stop"), files.atomic(path) as part:
        part.write_text("ne")
        raise ValueError("stop")
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    with files.atomic(path) as part:
        part.write_text("new")
    assert path.read_text() == "new" and len(list(tmp_path.iterdir())) == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(MediaError, match="cannot write"), files.atomic(tmp_path / "file" / "a.txt"):
        pass


def test_writer_fills_holes_in_the_sound_and_scales_later_frames(tmp_path):
    path = tmp_path / "c.mp4"
    with VideoWriter(path, fps=10, sample_rate=16000, channels=2, origin_ns=5 * NS) as writer:
        writer.write_audio(AudioChunk(tone(16000, 0.5), 16000, 5 * NS))
        for i in range(20):
            writer.write(np.zeros((41 + 3 * i, 61, 3), np.uint8), 5 * NS + i * NS // 10)
        writer.write_audio(AudioChunk(tone(16000, 0.5), 16000, 6 * NS + NS // 2))
    assert files.probe(path).size == (42, 62)
    sound = files.read_audio(path).samples
    assert sound.shape[1] == 2
    assert np.abs(sound[10000:22000]).max() < 0.02 and np.abs(sound[26000:30000]).max() > 0.25


def test_sound_that_is_written_twice_is_heard_once(tmp_path):
    path = tmp_path / "c.mp4"
    with VideoWriter(path, fps=10, sample_rate=16000, origin_ns=0) as writer:
        for i in range(16):
            writer.write(np.zeros((48, 64, 3), np.uint8), i * NS // 10)
        writer.write_audio(AudioChunk(tone(16000, 1.0), 16000, 0))
        writer.write_audio(AudioChunk(tone(16000, 1.0), 16000, NS // 2))
    assert abs(len(files.read_audio(path).samples) - 1.5 * 16000) < 2100


def test_deep_grey_pictures_are_scaled_from_the_full_range(tmp_path):
    values = np.arange(256, dtype=np.uint16)[None] * 257
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert files.read_image(tmp_path / "deep.png")[0, :, 1].tolist() == list(range(256))


def test_files_of_odd_fractions_still_round_trip(tmp_path):
    path = tmp_path / "c.mp4"
    with VideoWriter(path, fps=float(Fraction(30000, 1001))) as writer:
        for _ in range(10):
            writer.write(np.zeros((8, 8, 3), np.uint8))
    stamps = [f.stamp_ns for f in files.frames(path)]
    assert np.allclose(np.diff(stamps), NS * 1001 / 30000, atol=20_000)


@pytest.mark.parametrize("suffix", ["avif", "heic", "gif", "webp"])
def test_stills_of_phones_and_of_the_web_are_pictures(tmp_path, suffix):
    pillow_heif.register_heif_opener()
    rgb = np.full((64, 96, 3), (200, 60, 20), np.uint8)
    Image.fromarray(rgb).save(tmp_path / f"still.{suffix}")
    assert files.is_image(tmp_path / f"still.{suffix}")
    assert np.abs(files.read_image(tmp_path / f"still.{suffix}").astype(int) - rgb).max() < 12


def test_heic_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"any")
    with pytest.raises(MediaError, match=r"wanted pillow-heif .* 'taco-sounding\[heic\]'"):
        files.read_image(tmp_path / "a.heic")


def test_a_moving_gif_is_a_video_and_a_picture_of_an_odd_kind_is_refused(tmp_path):
    pictures = [Image.fromarray(np.full((64, 96, 3), value, np.uint8)) for value in (0, 120, 240)]
    pictures[0].save(tmp_path / "moving.gif", save_all=True, append_images=pictures[1:], duration=100)
    assert not files.is_image(tmp_path / "moving.gif") and len(list(files.frames(tmp_path / "moving.gif"))) == 3
    soundfile.write(tmp_path / "sound.wav", np.zeros(16000), 16000)
    pictures[1].save(tmp_path / "photo.jfif", "JPEG")
    with pytest.raises(MediaError, match=r"photo.jfif: wanted a video, got one picture"):
        open_sources([tmp_path / "photo.jfif", tmp_path / "sound.wav"], window_s=1.0)
