"""Files: models and adapters saved, loaded, and exchanged with Hugging Face PEFT.

files          atomic writes, JSON, and locks
safetensors    a strict reader and a writer of named arrays
gguf           the same of GGUF files, as llama.cpp has them
block_formats  the formats of numbers in those, such as Q4_1
arrays         arrays in files with a checksum, and what they must be
identity       what a result depends on, compared before it is used
checkpoint     save and load a base model or an adapter
hf_adapters    import and export adapters in HF PEFT's format
"""
