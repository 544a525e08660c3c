"""Training: one loop that runs in a plain process; `on_ray` puts it on a cluster."""
