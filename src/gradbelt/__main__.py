"""`python -m gradbelt ...` is the command `gradbelt ...`; torchrun needs this spelling."""

from gradbelt.cli import main

main()
