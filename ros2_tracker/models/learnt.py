"""What graphs and the loop agree on about a classifier that is learnt while a target is followed."""

LEARNT = "learnt"
"""Input of graphs that take one."""
LEAST_RESPONSE = 0.05
"""Of it: where it sees no target at all, 0.22 is left of a score of 1 at a share of 0.5. Lower trusts it more."""
