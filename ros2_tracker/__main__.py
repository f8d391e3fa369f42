"""`python -m ros2_tracker`: the command line."""

import sys

from ros2_tracker.cli import main

sys.exit(main())
