"""What enters and leaves the cache in bulk: exports, their restoration, and answers known beforehand.

Decides nothing that the policy decides, and must never store what a request's own answer would not be stored
as, nor keep the event loop from requests.
"""
