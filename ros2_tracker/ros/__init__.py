"""Between ROS 2 and the tracker: messages to arrays and back, parameters, diagnostics."""
