"""Parameter-efficient fine-tuning: what a method is, and what can be done with one.

base       Method, Delta and Adapter: what every method is made of
targets    which modules or parameters a method changes, by name
formula    counts of parameters as equations
methods/   the methods, one file each
attach     attach, use, detach: adapters on a model
merge      merge and unmerge: an adapter's change added to the weights
combine    one adapter from several
data_start initial values that EVA, CorDA and LoRA-GA take from the first batches of a run
loftq      a quantised base, and LoRA that starts from its rounding error
"""
