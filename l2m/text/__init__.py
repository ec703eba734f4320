"""Text: books and other documents, their tokens, and the windows and sequences cut from them.

Corpora (`corpora`), where those known by name come from (`archives`, `cleaning`), token ids on disk
(`token_files`), `windows` that start at a paragraph, `sequences` to train on, and passages that two
books share (`shared_passages`). Tokenizers are handed in.
"""
