"""Checkers: pure functions over recorded histories and client-side ledgers, shared by the simulator and the crash campaign.

Each returns a list of `Violation`; an empty list is a pass. None of them does I/O or knows how the run was made.

    ledger.py          what clients were told (`Act`, `Ledger`)
    histories.py       what the server recorded (`RunHistory`), and where a client's token occurs in it
    recorded_once.py   acked is recorded, nothing is applied twice, results told equal results recorded
    open_runs.py       one open run per workflow id, by the times in the histories
    linear.py          starts and terminates of one workflow id are linearizable (exact search)
    well_formed.py     event ids are dense, references point to what they must, nothing follows a close
    moves.py           whatever is outstanding has something that moves it
    ownership.py       one writer per shard at any time, by the store's range ids; nobody takes a shard that no ring gave it
    ownership.py       one writer per shard at any time, by the store's range ids; nobody takes what no ring gave it
    results.py         results told to clients are the recorded ones
    folds.py           stored state equals the fold of its history (hook)
"""
