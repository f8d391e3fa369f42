"""One frame's way through: crop, network, decode, motion, reliability, book-keeping of targets. No ROS, no torch."""
