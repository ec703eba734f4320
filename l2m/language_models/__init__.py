"""Language models: windows of tokens become log-likelihoods at every split.

Models and tokenizers by name (`models`); log-likelihoods in three exact ways (`likelihood`), one of
them in one pass (`packing`); all windows at all splits (`scoring`), by a model that is trusted
(`trust`), or one behind a server (`served`); and after a cache that was cut (`cut_cache`).
"""
