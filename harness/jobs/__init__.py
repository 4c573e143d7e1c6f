"""Jobs that take minutes to days and can be interrupted: runs, students, rescoring, watching checkpoints."""
