"""Traces of requests, from the client's to the engine's, where an operator wants them."""
