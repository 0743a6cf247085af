"""The commands of ``zoo``, by what they are about: each function parses, calls one thing and prints."""
