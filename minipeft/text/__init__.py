"""Text: the tasks on English words that the lessons and the comparison train on.

words   the tokenizer, the tasks and their splits
"""
