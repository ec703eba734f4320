"""The book's chapters: notebooks, which are run, checked and made into pages.

What a chapter needs to be one: checked parameters, its run, the stamp by which an executed one is
seen to be out of date, its figures' looks, what is published. For notebooks and `l2m.cli`.
"""
