"""A trained classifier behind a small web page and an HTTP interface; nothing that is uploaded is kept."""
