"""The box office in a real browser."""
