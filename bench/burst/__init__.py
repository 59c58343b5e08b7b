"""A burst beyond capacity on a virtual clock, with and without load-adaptive cache policies, on labelled questions."""
