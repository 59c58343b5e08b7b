"""How often a semantic hit is right: hit rate on duplicates against false-hit rate on known non-duplicates.

Everything is seeded and derived from the texts, so that two runs on the same data print the same tables.
"""
