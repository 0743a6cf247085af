"""Lightning callbacks that know nothing of the zoo: use them in any Lightning project."""
