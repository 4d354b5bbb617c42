"""Calibration: how often the detectors are right, and how often they cry falsely, over trainings whose end is known.

    healthy/  trainings that go well     natural   that fail by themselves     injected  faults put into healthy ones
    training  what a script is handed    corpus    which are run, and one run  data      where the numbers come from
    judged    every detector and every rival's rule over a record              rivals    what others call sick
    table     counted

Running and judging are apart: each run lies in a black box, and is judged by reading that again.
"""
