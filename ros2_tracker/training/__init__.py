"""Training: crops of objects, pairs of them, augmentation, losses, the loop. Needs torch; knows no ROS."""
