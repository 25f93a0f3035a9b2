"""The models: one select a file, run in name order; each header says what one row means and which laws hold."""
