"""Where documents live: memory, SQLite and Redis behind one contract, group commit and a hot set in front.

Decides how entries become bytes and when they are durable. Must never be needed for a miss, never let a
foreign exception out (only `StoreError`), and never wait without a bound.
"""
