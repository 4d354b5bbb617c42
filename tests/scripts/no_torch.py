"""Has nothing to do with torch."""
import sys

print("hello", *sys.argv[1:])
