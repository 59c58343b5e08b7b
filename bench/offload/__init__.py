"""What in-context offload is worth: the router replayed on recorded outcomes, examples on a real small model.

Everything is seeded; two runs on the same data print the same tables, timings aside.
"""
