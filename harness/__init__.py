"""The conductor: command line, suite files, plan, execution, scoring and generation."""
