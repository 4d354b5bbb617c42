"""Prints everything about its surroundings that a script can see."""
import os
import sys

import neighbour

print(__name__, __file__, sys.argv, os.getcwd(), sys.path[0], __package__, __spec__)
print(sys.modules["__main__"].__file__ == __file__, neighbour.VALUE, "GRADBELT_PLAN" in os.environ, "torch" in sys.modules)
print(sys.stdin.read().upper(), end="")
sys.stdout.buffer.write(b"bytes\n")
