"""Networks, stacked along the chain axis."""
