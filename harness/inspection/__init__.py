"""What ``crosstok inspect`` writes: a page with plots, and the same numbers as data.

The numbers themselves are ``crosstok.distill.inspection``'s; here they are only drawn, explained and written down.
"""
