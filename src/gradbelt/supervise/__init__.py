"""An unchanged script as a patient: it runs in a child process, watched through the framework's own hooks.

`launch` is the parent's side and loads no torch; everything else runs in the child. The child's entry point, which puts
the belt, the remedies and the tracer on the patient, is `gradbelt.cli.patient`.
"""
