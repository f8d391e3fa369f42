"""A closed loop without hardware: a rendered world, the real tracker node and the real follow-me node over DDS."""
