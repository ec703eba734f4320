"""Experiments: what the chapters record, as runs and tables.

Measurements of a corpus (`measure`); training runs as processes, and their grids (`runs`), on
Gaussian sequences (`gaussian`) and on books (`books`); the loss by position on held-out books
(`position_losses`); models whose memory is counted in bits (`bottleneck`); what a cache of words
adds to a model (`word_cache`).
"""
