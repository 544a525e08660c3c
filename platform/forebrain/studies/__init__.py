"""Studies: many runs that differ in one thing, and what follows from them."""
