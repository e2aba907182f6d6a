"""How good a classifier is, on photographs it has not learned from: figures, pictures, a page."""
