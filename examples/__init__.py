"""Examples of how the tracker is used: each folder is a package by itself that may be copied and changed."""
