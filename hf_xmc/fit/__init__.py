"""`hf-xmc fit`: from a file of texts and labels to a tagger, in one command.

Read it in this order: `settings` (what can be chosen, and the presets), `sources` (from what the user has to a data
set), `survey` and `machine` (what is known before training), `plan` (stages that fit the budget), `stages` (what is
done), `report` (the last page), and `fit`, which runs them.
"""
