"""The training loop, its optimiser, data and history."""
