"""What the user reads.

Of a fuzz run: `recording` makes records of events, `records` says what they hold, `eventfile` keeps them on disk, `summary`
folds them, `verdict` says what they come to, and `run_text`, `run_document`, `junit` and `markdown` show the sum; `outputs`
says where. From `records` on, none of these needs torch, so `tridiff report` works anywhere. `fuzzing` does it all live, with
`progress`. `text`, `document`: the same for `prove`, `repro` and `list`. `doctor`: for the command of that name.
`targets` shows a survey of targets, with `targets_text` and `targets_document`; `mutants` one of mutants, likewise. `waived` and
`surface`: what the ledger keeps from being a finding. `domain_text`: domains.
`figures`, `consoles`: how numbers and terminals look.
"""
