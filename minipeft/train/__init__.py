"""Training: batches, their gradients, the training loop and what it records.

data             Examples: token ids with labels, and the batch of each step
batch_gradient   loss and gradient of a batch, whole or in micro-batches
data_parallel    micro-batches on several processes
optimizers       AdamW for all that trains, or what a method brings instead
fit              the training loop, its checkpoint, and evaluation
interrupt        the first Ctrl-C ends a run after the step at hand
history          History of a run, Score of a model
"""
