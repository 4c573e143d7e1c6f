"""Client for servers with an OpenAI-compatible API."""
