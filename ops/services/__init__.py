"""Real servers for tests, chaos and bench: installed from the distribution's packages, started on free ports with private data,
stopped by pid.

    processes.py  packages, private folders, free ports, a process that is ended by its pid
    postgres.py, mariadb.py, etcd.py   one server each
    proxy.py      a TCP link that loses, delays or cuts on command
"""
