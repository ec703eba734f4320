"""Language models: windows of tokens become log-likelihoods at every split.

Models and tokenizers by name (`models`); log-likelihoods in three exact ways (`likelihood`), one of
them in one pass (`packing`); all windows at all splits, kept on disk meanwhile (`scoring`), by a
model that is trusted (`trust`), or by one behind a server (`served`); what a cache of words adds
(`word_cache`).
"""
