"""What is measured: documents, prompts, stops and scoring rules."""
