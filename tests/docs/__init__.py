"""What the documents say, held to the service; the examples are run."""
