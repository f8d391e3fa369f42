"""The operator's browser page: a small web server, and what it knows of images and targets. Free of ROS."""
