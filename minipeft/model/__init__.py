"""The language model: layers, the transformer, its KV cache, generation, quantised weights."""
