"""Which category a question belongs to, read off the vector that the look-up computes anyway.

Must never cost a second embedding.
"""
