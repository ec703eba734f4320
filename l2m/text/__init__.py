"""Text: books and other documents, their tokens, and the windows and sequences cut from them.

Corpora by name, file or folder (`corpora`), where the named ones come from (`archives`) and how
their raw files become paragraphs (`cleaning`); token ids on disk (`token_files`); windows that
start at a paragraph (`windows`), sequences to train on (`sequences`), and passages that two books
share (`shared_passages`). Tokenizers are handed in. Imports nothing of l2m but `files`.
"""
