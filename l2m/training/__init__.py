"""Training: one loop for all experiments, and what makes it fast.

Networks with random weights (`networks`), the loop and its tables (`loop`), the loss of tokens
without their logits (`loss`), kernels, compiling and CUDA graphs (`acceleration`), Mamba's scan and
the mixer around it (`selective_scan`, `mamba_mixer`), files to go on from (`checkpoints`).
"""
