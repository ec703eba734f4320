"""Training: one loop for all experiments, and what makes it fast.

Networks with random weights (`networks`), the loop and its tables (`loop`), the loss of tokens
without their logits (`loss`), kernels, compiling and CUDA graphs (`acceleration`), Mamba's scan
(`selective_scan`), layers of ours in transformers' models (`own_layers`), files to go on from
(`checkpoints`). Imports `language_models` and what lies below it.
"""
