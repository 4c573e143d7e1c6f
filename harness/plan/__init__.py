"""Suite files, and the plan of models and cells (a model on a task) that a suite asks for."""
