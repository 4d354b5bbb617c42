"""Where it began: the script is run again, and followed operation by operation from just before the onset.

`reproduce` is the parent's side; `trace` and `facts` run in the child.
"""
