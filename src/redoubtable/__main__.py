"""`python -m redoubtable`, the same as `redoubt`; for launchers that start modules."""

from redoubtable.cli import main

if __name__ == "__main__":
    main()
