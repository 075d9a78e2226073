"""Pixels and sound samples out of the bytes of messages: one decoder for live topics and for bags. Knows nothing of ROS."""
