"""Text, dicts and named files -> data of known structure, with the repairs that the format allows."""
