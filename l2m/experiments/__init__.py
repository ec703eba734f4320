"""Experiments: what the chapters record, as runs, grids and tables.

Measurements of a corpus (`measure`); runs of training as independent processes, kept and gathered
(`runs`); which runs there are (`grids`), on Gaussian sequences (`gaussian`) and on books (`books`);
the loss by position on held-out books (`position_losses`); models whose memory is counted in bits
(`bottleneck`). Imports everything but `chapters`.
"""
