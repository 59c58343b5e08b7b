"""What is permitted: the operator's book of categories and rules, and the ruling for one request.

Decides mode, threshold, TTL and offload per request. Must never change under a request in progress:
a book and its compiled `Policy` are frozen, and a new one replaces the old by one reference.
"""
