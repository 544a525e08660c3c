"""A new animal on a published backbone: its interface is fitted, the backbone stays. Never imports Ray."""
