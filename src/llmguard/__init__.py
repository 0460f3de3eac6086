"""The checks: data in, findings out."""
