"""How fast model, training, adaptation and the way of the data are, beside what the machine can do."""
