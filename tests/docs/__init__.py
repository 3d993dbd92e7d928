"""Tests that compare the documents with the service, and run their commands and examples."""
