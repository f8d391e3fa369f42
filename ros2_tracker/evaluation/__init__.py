"""Offline work on recorded or rendered footage: frame sources, results, metrics, bench. No ROS, no torch."""
