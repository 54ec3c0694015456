"""Models that do not fit into memory: built without values, their blocks drawn one at a time wherever they are read, and let go."""

from .stream import check_streamed, outgrows

__all__ = ["check_streamed", "outgrows"]
