"""The start of a program, from sys.argv to a worker that serves."""
