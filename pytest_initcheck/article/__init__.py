"""The experiments of the article that this package grew from, repeated by its own probe and schemes.

Source: "Weight Initialization in Neural Networks: A Journey From the Basics to Kaiming" (J. Dellinger, 2019), and the two papers
that it reports on: Glorot and Bengio 2010, He et al. 2015.
"""

from __future__ import annotations

from .outcome import FULL, QUICK, Effort, Outcome, Row
from .plots import save_plots
from .rows import ROWS
from .table import as_data, line, table

__all__ = ["FULL", "QUICK", "ROWS", "Effort", "Outcome", "Row", "as_data", "line", "save_plots", "table"]
