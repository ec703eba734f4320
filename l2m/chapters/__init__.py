"""The book's chapters: notebooks, which are run, checked and made into pages.

Here lives what a chapter needs to be a chapter: its checked parameters, its run, the stamp by which
an executed one is seen to be out of date, its figures' looks, and what is published. This room is
on top: only notebooks and `l2m.cli` import it.
"""
