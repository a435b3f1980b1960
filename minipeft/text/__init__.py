"""Text as token ids: the word tasks that the lessons and the comparison train on."""
