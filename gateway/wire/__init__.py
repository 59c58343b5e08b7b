"""Bytes ↔ canonical request and answer, for chat, completions, responses, messages and embeddings.

Decides what a body says and what two bodies have in common. It must never know the cache, a tenant's policy,
or a socket: every function here is synchronous and pure.
"""
