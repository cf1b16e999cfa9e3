"""The live state in this hub's memory, as rows of the change log change it."""
