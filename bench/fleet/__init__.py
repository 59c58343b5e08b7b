"""A fleet of simulated engines under recorded arrivals, routed by the product's own code on a virtual clock."""
