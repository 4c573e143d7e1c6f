"""Client for OpenAI-compatible servers."""
