"""`python -m examples.follow_me`: the node, from the source tree."""

import sys

from .node import main

sys.exit(main())
