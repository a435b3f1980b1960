"""Models, adapters and checkpoints in files, this package's own and Hugging Face's."""
