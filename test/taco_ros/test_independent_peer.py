"""An independent DDS peer, written in another language and without ROS, reads what the node publishes."""

import array

import cv2
import numpy as np
import pytest
import rosless
import soundfile
from ros_help import RATE, ROOT, parameters, scene_image

pytestmark = pytest.mark.ros


@pytest.mark.timeout(180)
def test_objects_are_read_from_the_message_files_alone(start, tmp_path, domain):
    for name in ("SoundingObject", "SoundingObjectArray"):
        rosless.register_type(f"taco_ros/msg/{name}", (ROOT / "msg" / f"{name}.msg").read_text())
    cv2.imwrite(str(tmp_path / "picture.png"), cv2.resize(scene_image(), (160, 120))[..., ::-1])
    tone = 0.3 * np.sin(2 * np.pi * 300 * np.arange(20 * RATE) / RATE)
    soundfile.write(tmp_path / "sound.wav", tone, RATE)
    # the peer speaks ordinary DDS discovery on this machine, so no loopback profile here
    ordinary = {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTRTPS_DEFAULT_PROFILES_FILE": "",
        "FASTDDS_DEFAULT_PROFILES_FILE": "",
    }
    start("taco_node", *parameters(models__image="standin:5"), environment=ordinary)
    start("player", tmp_path / "picture.png", "--sound", tmp_path / "sound.wav", "--loop", "--wait", "60", environment=ordinary)
    with rosless.subscribe("/taco_node/objects", domain=domain, wait=30.0) as peer:
        for _ in range(100):
            message = peer.read(timeout=30.0)
            assert message is not None, "nothing came"
            if message.objects:
                break
    found = message.objects[0]
    assert found.label == "red" and 0.5 < found.score <= 1 and message.header.frame_id == "camera"
    box = found.bounding_box
    assert abs(box.x_offset - 12) < 12 and abs(box.y_offset - 25) < 12 and len(found.mask.data) == box.width * box.height
    assert -15 < message.level < -10 and message.audio_window_end.sec >= message.audio_window_start.sec
    assert isinstance(found.other_label_scores, (list, array.array)) and len(found.place) == 0
