"""Tables of the two papers, with our measurements next to the published ones."""
