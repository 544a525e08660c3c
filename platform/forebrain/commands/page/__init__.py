"""Static pages of a registry, of runs, of an adaptation: one HTML file each, without any outside request."""
