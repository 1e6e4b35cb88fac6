"""`train.py --tune N`: a study of N runs whose settings Optuna chooses, in one folder, by many processes.

    study.json       what was asked for        study.db       Optuna's storage, SQLite: trials, their scores
    trials/0007/     the run of trial 7        seeds/0007-2/  a run of its settings with seed 2
    trials.csv, report.json                    what came of it, see findings.py

A trial is scored by its best validation Dice.  It is pruned where, after a quarter of its epochs and its
rate's warm-up, its best so far is below the median of what finished trials had at that epoch.  When N are
done the best few are trained anew with further seeds, and so is trial 0: the run without a search, where the
space has it.

A process takes one task after another: a trial that a dead process left, else a new one, else a seed.  It
holds the task's lock, which goes with it however it ends: what is neither done nor locked is free for
anybody, who goes on where it was last saved.  The settings of a trial follow from the study's seed, the
trial's number and the scores so far, so that a process that is killed and goes on chooses what it would have
chosen (but for a kill between the draws of one trial's settings, of which the rest is then drawn anew).

Of a finished trial last.pt is taken away, and best.pt too unless the trial is one of the best few.
"""
