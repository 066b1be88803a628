"""The guest's namespaces, found or made, and the interface in them."""
