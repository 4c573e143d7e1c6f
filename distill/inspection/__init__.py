"""What became of new tokens inside of a model: rows, their surroundings, their way there, what layers make of them.

``inspect`` compares a student with the model that it was made from and returns an ``Inspection``; harness makes a page
of it (``crosstok inspect``). It asks nothing of how the student was made: a token is new if the student's tokenizer
spells bytes with it that are no token of the parent's, and its old spelling is what the parent makes of these bytes.
"""

from crosstok.distill.inspection.records import Inspection
from crosstok.distill.inspection.report import inspect

__all__ = ["Inspection", "inspect"]
