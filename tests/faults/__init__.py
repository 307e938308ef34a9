"""What is left when a command dies, the disk is full, somebody else writes, or a source does not answer.

    make faults                                  everything: a quarter of an hour
    python -m tests.faults                       the kill points of every command, as a table
    python -m tests.faults --thorough            every state of them, many real kills: hours
    python -m tests.faults index calibrate       those of some
    python -m pytest tests/faults -n 0           the sample that is part of the test suite
    python -m pytest tests/faults -n 0 -m faults everything but the table

`commands.py` lists the commands, each with what a reader sees of what it wrote; `disk.py` numbers what a process does
to the disk; `kill_points.py` keeps the tree as it stood before each step and judges each of these trees.
"""
