"""The cluster campaign: real nodes on a real database and etcd, broken under load (`python -m chaos.cluster`). Reading order:

    plan.py, campaign.py   what a campaign shall do and what it did; its frame
    region.py              database, etcd, nodes, and a link before each that can be slowed and cut
    stage.py               the region under load: clients and workers on all nodes, the ledger of what they were told
    spread.py, requests.py, load.py   the crash campaign's load on all nodes at once, with terminates
    canaries.py            one workflow per shard that tells whether the shard takes writes
    faults.py              what is done to the region, and how it is undone
    courses.py             faults, rolling restart, a node more and less, two versions
    audit.py, stored.py    everything is read back, over the API and from the store, and checked
    releases.py            the program of an earlier commit
"""
