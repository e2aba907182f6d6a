"""Photographs, before a network sees them."""
