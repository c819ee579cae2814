"""How a run computes on its devices: in which numbers, compiled or not, and what waits in host memory.

hardware.py, levers.py     whether the machine, and the other settings, allow what the options ask for
float8.py, compiling.py    products in 8 bits, compiled networks
halved_encoder.py          a frozen encoder in float16
block_offload.py           frozen weights of blocks in host memory; resting.py: parts that do not compute
"""
