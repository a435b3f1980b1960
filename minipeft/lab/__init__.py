"""Experiments over the core: compare, count, explain, ledger, figures, pretrain."""
