"""Static pages: what a registry holds, runs side by side, one adaptation; one file each."""
