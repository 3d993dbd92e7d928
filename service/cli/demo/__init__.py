"""The demo: a simulated crowd that buys tickets from a temporary service."""
