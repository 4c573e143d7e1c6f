"""Sources of models and tokenizers: folders, hubs, GGUF files and package registries."""
