"""``python -m detexport.cli``, the same as ``detexport``."""

from detexport.cli import main

if __name__ == "__main__":
    main()
