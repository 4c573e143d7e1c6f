"""Public functions and records of crosstok, for notebooks and training loops; ``import crosstok`` offers them all."""
