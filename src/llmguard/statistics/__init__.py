"""How sure a difference between models is: exact tests, intervals, corrections, power; every result with its methodology.

exact.py (counts; the standard library alone), clusters.py (items that share a document), paired.py (two models on the same items),
several.py (more than two: Holm), power.py (what n items can show), sets.py (result files), words.py (sentences, methodology).
scipy and statsmodels (the extra `stats`) are asked only where scores are not simply right or wrong.
"""
