"""Anthropic's Messages API beside OpenAI's: its own forms, and what is said in one said in the other.

Decides how a request, an answer, a stream and an error translate. It must never drop what it cannot translate:
a request with such a part is refused with its place in the body, an answer with it is an error.
"""
