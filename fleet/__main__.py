"""`python -m fleet`: the `fleet` command where its script is not in the PATH."""

from fleet.cli import main

main()
