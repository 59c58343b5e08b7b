"""Many tenants and many entries on one gateway: memory, start, and hits beside the same gateway with few."""
