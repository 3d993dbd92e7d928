"""What `holdfast demo` shows: a crowd that one can watch."""
