"""`python -m handinger` is the command line."""

from handinger.cli.main import main

if __name__ == "__main__":
    main()
