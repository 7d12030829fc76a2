"""What the files of each format must look like, and what is read from them."""
