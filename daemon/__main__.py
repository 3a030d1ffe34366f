"""`python -m daemon` is `styletransferd`."""

from daemon.cli.main import main

if __name__ == "__main__":
    main()
