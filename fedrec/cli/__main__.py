"""`python -m fedrec.cli`."""

from fedrec.cli import main

main()
