"""Lexico: key-value caches as sparse codes over universal dictionaries."""
