"""Weights from elsewhere: of libraries, publishers and files, matched with a network and loaded into it."""
