"""What holds when many come at once, and when processes or connections die."""
