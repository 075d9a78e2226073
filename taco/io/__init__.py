"""Reading and writing: files, bags, sound devices, and the bytes of messages. No ROS."""
