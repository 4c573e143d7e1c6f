"""Long-running jobs that can be interrupted: runs of suites, students, rescoring, watching checkpoints."""
