"""The commands: compare, count, explain, ledger, figures, pretrain; tune, chat, merge."""
