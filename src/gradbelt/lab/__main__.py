"""`python -m gradbelt.lab calibrate` is the command `gradbelt lab calibrate`."""

import runpy
import sys

sys.argv.insert(1, "lab")
runpy.run_module("gradbelt", run_name="__main__")
