"""Whether semantic hits can be trusted: what judged samples say of them, and what follows from that.

Pure and synchronous, the clock and every random draw passed in. It decides operating points, closing and
exploring; it must never judge an answer, call a model, or loosen anything on a caller's word.
"""
