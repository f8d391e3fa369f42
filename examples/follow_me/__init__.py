"""Follow-me: from the tracker's status to velocity commands of a robot or UAV. README.md says how to run it."""
