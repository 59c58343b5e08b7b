"""Measurements of the gateway. Nothing in the product imports from here."""
