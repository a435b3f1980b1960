"""The laws that every method keeps, `contract` lists them, and what they are written with."""
