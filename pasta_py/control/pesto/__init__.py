"""The program pesto: shows and changes forwarded ports at run time."""
