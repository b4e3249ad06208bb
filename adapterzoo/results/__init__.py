"""Write the results of a run to disk, and read them back."""
