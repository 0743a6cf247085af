"""The functions of ``import zoo``, which commands parse and print for. Light: torch is imported where something is built."""
