"""What a tenant may ask for: models, rates, requests at once, money. It never parts one tenant's data from another's."""
