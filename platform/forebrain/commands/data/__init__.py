"""Public recordings: a catalogue that is downloaded from and added to."""
