"""Results: store, statistics, tables and pages. Imports no torch, and of crosstok only the floor."""
