"""The tables of the two papers, with our measurements beside them."""
