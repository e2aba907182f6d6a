"""Which settings train best, found by trying them."""
