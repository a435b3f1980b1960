"""What a fine-tuning method is, and how it is attached, merged and combined."""
