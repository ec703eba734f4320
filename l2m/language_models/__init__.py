"""Language models: windows of tokens become log-likelihoods at every split.

Models and tokenizers by name (`models`), the log-likelihood of sequences in three exact ways
(`likelihood`), the fastest of them in one pass (`packing`), all windows at all splits (`scoring`),
kept on disk while they are made (`shards`), and what a cache of words adds (`word_cache`). Imports
`text`, `sources`, `information`, `memory`, `results` and `files`.
"""
