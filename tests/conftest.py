"""Settings that every test shares."""

from __future__ import annotations

import os

# The tests run tiny models, where threads cost more than they give, and one process per core runs anyway.
# Set before torch is imported, and inherited by the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
