"""The real-process crash campaign: `python -m chaos.crash --kills 200`.

Starts `outlast dev` on a database file, kills it with SIGKILL at random moments under contended load, restarts it at once,
and afterwards compares what clients were told (a ledger) with what the server recorded (histories). Reading order:

    server.py     one server process: start, wait for its ready line, kill, restart
    bank.py       accounts in the harness's own SQLite file: the outside world that transfers change
    workflows.py  the workflows and activities of the load, on the official SDK
    worker.py     a worker in a process of its own, which is killed as well
    requests.py   raw calls with fixed request ids, retried until a definite answer; every answer goes into the ledger
    load.py       who does what how often: starts in contention, signals, updates, completions, transfers
    collect.py    reads every run and history back
    verdict.py    all checks of a campaign
    campaign.py   kills, load, quiet phase, report
"""
