"""The messages of `vision_msgs` 4.x that `Detection2DArray` needs; see the README of this distribution."""
