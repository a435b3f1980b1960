"""Text: the tasks on English words, and conversations for chat models.

words           the tokenizer, the tasks and their splits
tokenizer       the tokenizer of a language model, from and to a folder of Hugging Face
byte_level      byte-level BPE from the metadata of a GGUF file
chat_template   messages as the text that a chat model reads
conversations   chats in a file as Examples, the answers labelled
save_gguf       a model as a GGUF file, with its vocabulary
"""
