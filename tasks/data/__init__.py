"""Data sets of the benchmarks: catalogue, and loading of their rows."""

from crosstok.tasks.data.catalogue import CATALOGUE, DataSet
from crosstok.tasks.data.rows import Rows, load_rows, locate

__all__ = ["CATALOGUE", "DataSet", "Rows", "load_rows", "locate"]
