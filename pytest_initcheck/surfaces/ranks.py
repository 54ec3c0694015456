"""Which of the processes that torchrun started speaks for all of them. No torch."""

from __future__ import annotations

import os


def speaks() -> bool:
    """Return whether this process shows and writes what is found: the only one, or rank 0 of those that torchrun started.

    The verdict is the same on all of them, so each has the same exit status.
    """
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK", "0") == "0"
