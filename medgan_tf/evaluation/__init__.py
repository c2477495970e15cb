"""Scores, tables and pictures of translated images."""
