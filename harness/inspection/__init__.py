"""Reports of ``crosstok inspect``: a web page with plots, and the same numbers as data files.

``crosstok.distill.inspection`` computes the numbers.
"""
