"""Runs from the command line: one, or many as a sweep.

command    exit codes, errors in one line, the single run, the dry run
explain    Hydra's errors in one line
compose    overrides -> checked RunConfig
plan       the jobs of a batch, its controls and its duplicates, before any starts
planner    batch after batch of one sweep, beside what the sweep holds already
left_out   combinations that a rule refuses
job_identity  ids and fingerprints, also as a sweep that is older than a config key has them
manifest   sweep.json: the state of each job, and what a resumed sweep must equal
resume     what a resumed sweep keeps, gains and drops
invocation the command that starts, resumes or repeats a sweep
folder     the sweep's folder and its lock
named_folder  a single run in a folder of the user's choice
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
