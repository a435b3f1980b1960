"""Files: models and adapters saved, loaded, and exchanged with Hugging Face PEFT.

files         safetensors and JSON: atomic writes, checks and checksums
checkpoint    save and load a base model or an adapter
hf_adapters   import and export adapters in HF PEFT's format
"""
