"""Reading text files and splitting text into tokens."""
