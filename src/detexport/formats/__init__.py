"""Reading and writing the files of each format."""
