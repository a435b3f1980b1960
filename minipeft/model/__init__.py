"""The language model: GPT-2's and Llama's shape, text generation, and quantised weights.

config                   Config: the sizes of a transformer and the shapes that follow
layers                   Parameter, Module, Site, Linear, Embedding, norms, Dropout
transformer              attention, MLP, Block, Transformer
kv_cache                 keys and values of the tokens read so far; the causal mask
generate                 text generation, token by token
gradient_checkpointing   less memory in training: activations are computed again
transaction              operations that succeed or change nothing; one thread changes a model
quantize                 frozen weights in 8 or 4 bits
validation               checks of token ids, attention masks and labels
summary                  a model printed as a tree
"""
