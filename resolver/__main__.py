"""``python -m resolver``: the command line."""

from resolver.cli import main

if __name__ == "__main__":
    main()
