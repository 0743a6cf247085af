"""The single checks that make up the contract of the zoo: those of models, and those of each kind of data."""
