"""Makes students: transferred, expanded, distilled and ensembled models; knows no tasks, sandboxes or results."""
