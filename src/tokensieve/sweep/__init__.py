"""Runs from the command line: one, or many as a sweep.

command    exit codes, errors in one line, the single run, the dry run
explain    Hydra's errors in one line
compose    overrides -> checked RunConfig
plan       every job of a sweep, its controls and its duplicates, before any starts
manifest   sweep.json: the state of each job, and what a resumed sweep must equal
resume     which overrides a resumed sweep runs
folder     the sweep's folder and its lock
pool       fresh processes from a fork server; signals, deadlines, thread counts
job        what happens inside such a process
session    one sweep from plan to report
terminal   what the user sees of it
"""
