"""Files: models and adapters saved, loaded, and exchanged with Hugging Face PEFT.

files          atomic writes, JSON, and locks
safetensors    a strict reader and a writer of named arrays
gguf           the same of GGUF files, as llama.cpp has them
block_formats  the formats of numbers in those, such as Q4_1
arrays         arrays in files with a checksum, and what they must be
identity       what a result depends on, compared before it is used
checkpoint     save and load a base model or an adapter
hf_adapters    import and export adapters in HF PEFT's format
hf_modules     what HF calls our modules, and what HF PEFT does not do on its models
hf_fused       those of matrices that HF holds as one and this package as several
families       what the families of pretrained models call their sizes and parameters
hf_configs     the config.json of those models, as a Config, and back
pretrained     from_pretrained: a model out of a folder or a GGUF file
hf_models      models in folders of Hugging Face's
gguf_models    models in GGUF files
unfilled       a model whose parameters are still to be read
"""
