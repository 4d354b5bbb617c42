"""The black box: every step of a run in one SQLite file that survives kill -9 and can be read while it is written.

>>> import tempfile, gradbelt.blackbox as blackbox
>>> with tempfile.TemporaryDirectory() as folder:
...     blackbox.Writer(folder, {"script": "train.py"}, warn=print).close()
...     blackbox.load_run(folder).meta["script"]
'train.py'

Nothing here loads a framework, so a record can be read where none is installed.
"""

from gradbelt.blackbox.reader import RunSummary, list_runs, load_run
from gradbelt.blackbox.writer import Writer

__all__ = ["RunSummary", "Writer", "list_runs", "load_run"]
