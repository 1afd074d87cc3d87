"""The data that the book trains on. Each module imports what it needs when it is used."""
