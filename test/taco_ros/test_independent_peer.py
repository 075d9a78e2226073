"""An independent DDS peer, written in another language and without ROS, reads what the node publishes."""

import array

import cv2
import numpy as np
import pytest
import rosless
import soundfile

from test.taco_ros.graph import RATE, ROOT, built, parameters, scene_image

pytestmark = pytest.mark.ros


# vision_msgs 4.1, of which no wheel exists
VISION = {
    "Point2D": "float64 x\nfloat64 y",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "ObjectHypothesis": "string class_id\nfloat64 score",
    "ObjectHypothesisWithPose": "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose",
    "Detection2D": "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
    "vision_msgs/BoundingBox2D bbox\nstring id",
    "Detection2DArray": "std_msgs/Header header\nvision_msgs/Detection2D[] detections",
    "VisionClass": "uint16 class_id\nstring class_name",
    "LabelInfo": "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold",
}


@pytest.mark.timeout(300)
def test_objects_are_read_from_the_message_files_alone(start, tmp_path, domain):
    for name in ("SoundingObject", "SoundingObjectArray"):
        rosless.register_type(f"taco_ros/msg/{name}", (ROOT / "msg" / f"{name}.msg").read_text())
    for name, text in VISION.items():
        rosless.register_type(f"vision_msgs/msg/{name}", text + "\n")
    cv2.imwrite(str(tmp_path / "picture.png"), cv2.resize(scene_image(), (160, 120))[..., ::-1])
    tone = 0.3 * np.sin(2 * np.pi * 300 * np.arange(20 * RATE) / RATE)
    soundfile.write(tmp_path / "sound.wav", tone, RATE)
    # the peer speaks ordinary DDS discovery on this machine, so no loopback profile here
    ordinary = {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTRTPS_DEFAULT_PROFILES_FILE": "",
        "FASTDDS_DEFAULT_PROFILES_FILE": "",
    }
    vision = built("vision_msgs", "vision", VISION, ("std_msgs", "geometry_msgs"))
    start("taco_node", *parameters(models__image="standin:5"), environment=ordinary | vision)
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

    def read(topic, **options):
        with rosless.subscribe(topic, domain=domain, wait=20.0, **options) as peer:
            message = peer.read(timeout=20.0)
        assert message is not None, f"nothing on {topic}"
        return message

    labels = read("/taco_node/label_info", reliability="reliable", durability="transient_local")  # a late listener gets it too
    assert [(entry.class_id, entry.class_name) for entry in labels.class_map] == [(found.id, "red")]
    detection = read("/taco_node/detections").detections[0]
    assert detection.id == str(found.id) and detection.results[0].hypothesis.class_id == "red"
    assert abs(detection.bbox.center.position.x - 37) < 12 and abs(detection.bbox.size_x - 50) < 20
    assert detection.header.frame_id == "camera"
