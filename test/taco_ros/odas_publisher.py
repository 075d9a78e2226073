"""Run as a process: publishes ODAS's tracked sources with a twin of odas_ros_msgs, prints what comes with a twin of hri_msgs.

usage: odas_publisher.py X Y Z (the direction of the louder source, in the array's frame)
"""

import sys

import rclpy
from hri_msgs.msg import IdsList, NormalizedRegionOfInterest2D
from odas_ros_msgs.msg import OdasSst, OdasSstArrayStamped
from rclpy.node import Node


def main():
    x, y, z = map(float, sys.argv[1:4])
    rclpy.init()
    node = Node("odas")
    publisher = node.create_publisher(OdasSstArrayStamped, "sound_direction", 10)

    def send():
        message = OdasSstArrayStamped()
        message.header.stamp, message.header.frame_id = node.get_clock().now().to_msg(), "array"
        sources = [OdasSst(id=1, x=x, y=y, z=z, activity=0.9), OdasSst(id=2, x=x, y=-y, z=z, activity=0.05), OdasSst()]
        message.sources = sources
        publisher.publish(message)

    node.create_timer(0.02, send)
    node.create_subscription(IdsList, "taco_node/speakers", lambda m: print("speakers", list(m.ids), flush=True), 1)
    node.create_subscription(
        NormalizedRegionOfInterest2D,
        "taco_node/speaker_region",
        lambda m: print(f"region {m.xmin:.2f} {m.ymin:.2f} {m.xmax:.2f} {m.ymax:.2f} {m.c > 0.2}", flush=True),
        1,
    )
    rclpy.spin(node)


if __name__ == "__main__":
    main()
