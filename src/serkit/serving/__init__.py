"""The HTTP server: the same predictions as the command line, for programs and for the page in ``web/``."""
