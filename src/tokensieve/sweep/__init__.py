"""Runs from the command line: one, or many as a sweep.

command    exit codes, errors in one line, the single run, the dry run
explain    Hydra's errors in one line
compose    overrides -> checked RunConfig
plan       every job of a sweep, its controls and its duplicates, before any starts
left_out   combinations that a rule refuses
manifest   sweep.json: the state of each job, and what a resumed sweep must equal
resume     which overrides a resumed sweep runs
folder     the sweep's folder and its lock
execution  here or on a cluster; who writes down and shows what happens to a job
pool       fresh processes of this machine from a fork server; stop signals, deadlines
devices    the visible GPUs
slots      which of them a job gets, locked against other sweeps; thread counts
cluster    jobs that a cluster runs, watched: on_slurm, on_ray
remote     what is sent to a cluster's machine, and what it does there
job        what happens inside a job's process
session    one sweep from plan to report
terminal   what the user sees of it
"""
