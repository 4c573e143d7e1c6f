"""Inspection of new tokens in a model: their rows, neighbours and movement during training, and layer-wise traces.

``inspect`` compares a student with the model it was derived from and returns an ``Inspection``, which ``crosstok
inspect`` renders as a page. It does not depend on how the student was made: a token is new if its bytes are no token of
the parent, and its old spelling is the parent's encoding of these bytes.
"""

from crosstok.distill.inspection.records import Inspection
from crosstok.distill.inspection.report import inspect

__all__ = ["Inspection", "inspect"]
