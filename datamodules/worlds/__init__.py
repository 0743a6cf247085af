"""Small worlds that are drawn and told from a seed: pictures whose every sentence, question and answer can be checked."""
