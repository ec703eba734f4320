"""Language models: windows of tokens become log-likelihoods at every split.

Models and tokenizers by name (`models`), the log-likelihood of sequences in three exact ways
(`likelihood`), the fastest of them in one pass (`packing`), all windows at all splits (`scoring`),
by models that are trusted (`trust`), kept on disk meanwhile (`shards`); what a cache of words adds
(`word_cache`).
"""
