"""What answers queries: index versions, the pointer to the live one, and the building of the next."""
