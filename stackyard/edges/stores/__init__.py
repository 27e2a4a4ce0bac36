"""Places that hold files, each behind the same protocol."""
