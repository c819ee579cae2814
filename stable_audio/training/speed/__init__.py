"""Where the time of training goes: the parts of a step, operations per second, and who is slow."""
