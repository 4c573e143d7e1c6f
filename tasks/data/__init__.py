"""Where the documents of benchmarks come from."""

from crosstok.tasks.data.catalogue import CATALOGUE, DataSet
from crosstok.tasks.data.rows import Rows, load_rows, locate

__all__ = ["CATALOGUE", "DataSet", "Rows", "load_rows", "locate"]
